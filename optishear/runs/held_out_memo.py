"""A cache of held-out measurements: the same weights are measured on the same text only once.

Runs of one question share the dense model and most of the baselines, and measuring these takes
longer than many searches.
"""

import json
from functools import partial
from pathlib import Path

from optishear.evaluation.perplexity import HeldOut
from optishear.records.atomic import replace_file
from optishear.records.cache import OTHER_CACHE, kept


def known(path: Path, text: str) -> HeldOut | None:
    """What was measured before; the very same numbers, since JSON keeps every digit.

    `text` is what this text is called now: it may have been measured under another name.
    """
    return kept(path, partial(_read, text))


def remember(path: Path, found: HeldOut) -> None:
    content = {"seq_len": found.seq_len, "nats": found.nats}
    replace_file(path, json.dumps(content, allow_nan=False).encode(), OTHER_CACHE)


def _read(text: str, path: Path) -> HeldOut:
    data = json.loads(path.read_text(encoding="utf-8"))
    return HeldOut(text, data["seq_len"], tuple(data["nats"]))
