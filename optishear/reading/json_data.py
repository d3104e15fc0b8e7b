"""JSON as plain data, stricter than Python's own reader: what it would let pass is a mistake."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.reading.texts import refuse_half_characters, text_of


HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def json_of(
    text: str,
    where: str,
    mend: str = "Mend it.",
    *,
    numbers: bool = True,
    fault: str = "is not JSON",
) -> Any:
    """The data that `text` holds. A `ConfigError` begins with `where` and ends with `mend`.

    Refused beside what is no JSON: a key that comes twice, of which one would be lost; half a
    character; nesting deeper than Python can follow; and, unless `numbers` is false, NaN and
    infinities, which are no JSON and no value of anything that is measured. (Rows of data that
    somebody else wrote may have them in a column that is not read.)
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_finite if numbers else float,
            parse_constant=_refused if numbers else float,
        )
    except (ValueError, RecursionError) as error:  # ValueError: also of integers without an end
        raise ConfigError(f"{where}: {fault} ({error}). {mend}") from None
    if HALF_CHARACTER.search(text):
        refuse_half_characters(json.dumps(data, ensure_ascii=False), where)
    return data


def json_in(path: Path, mend: str = "Mend it.") -> Any:
    """The data of a whole file; `ConfigError` as `json_of`, `FileNotFoundError` where it is not."""
    return json_of(text_of(path, mend), str(path), mend)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} comes twice")
    return data


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text} is too large")
    return number


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number")
