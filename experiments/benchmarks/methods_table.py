"""Held-out perplexity of every named method at several sparsities, pruned block by block.

    python methods_table.py --model smollm2-135m --out results/methods_smollm2

Methods are named as in `optishear methods` or below, METHOD@RULE with a published rule's layer
sparsities, METHOD@NAME with those of the run or recipe that `--profiles NAME=PLACE` names ({seed}
in it: of the calibration's seed), METHOD/lambda=0.5/roles=gate+up blended with the Taylor loss,
METHOD/shift=0.5/order=site/reconstruct=block:epochs=5 with what goes beyond it (`options_of`);
`--recipes` puts recipe files of `optishear export` beside them, `--runs` what searches on the same
calibration text have already measured of their pick, block by block. One row of methods.csv.xz for
each method, setting, calibration and text, written as soon as it is measured; what the file already
has is not measured again. summary.md holds the tables that people read: perplexity and its standard
error over sequences, one column a setting, and for each recipe what it gains on the best fixed
method of its setting; where there are several calibration texts, a row for each and what the
methods gain on the first of them; and what each lever (METHOD/...) gains on its METHOD.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
import yaml
from bench_common import origin_line
from frames import groups, where
from help_text import first_line
from levers import heading, lever_lines, settings_of

from optishear.config import Experiment
from optishear.evaluation.paired import paired_difference
from optishear.evaluation.perplexity import held_out
from optishear.models.weights import working_weights
from optishear.recipe.recipe import Recipe
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.records.run_directory import find_run, read_json
from optishear.runs.held_out import SEQUENTIAL
from optishear.runs.prepare import Prepared, prepare
from optishear.solvers.methods import METHODS
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches
from optishear.tools.named import NamedMethod
from optishear.tools.prune import apply_to


EXTRA = {  # named methods with an option
    "sparsegpt, by rows": ("sparsegpt", {"pattern": "row"}),
    "sparsegpt + refit": ("sparsegpt", {"refit": True}),
    "magnitude + refit": ("magnitude", {"refit": True}),
    "ria + refit": ("ria", {"refit": True}),
    "optima, moonshot": ("optima", {"moonshot_lambda": 0.5}),
}
DENSE, FOUND = "dense", "found: "


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--settings", default="0.5,0.6,0.7,2:4")
    parser.add_argument("--methods", default=",".join([*METHODS, *EXTRA]))
    parser.add_argument("--recipes", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--profiles", nargs="*", default=[], metavar="NAME=PLACE")
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--calibration", nargs="+", default=["wikipedia-passages@train:16x512"])
    parser.add_argument("--evaluation", nargs="+", default=["wikipedia-passages@evaluation:24x512"])
    parser.add_argument("--gradient-sequences", type=int, default=16)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for calibration, seed in product(given.calibration, map(int, given.seeds.split(","))):
        measure(given, spec_of(calibration, seed))
    summarise(given)


def measure(given: argparse.Namespace, calibration: TextSpec) -> None:
    prepared = prepare(given.model, given.dtype, given.device, calibration)
    texts = [
        token_batches(spec_of(text, 0), prepared.loaded.tokenizer) for text in given.evaluation
    ]
    path = given.out / "methods.csv.xz"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {key_of(row) for row in rows}
    for method, setting, recipe in planned(given, prepared, calibration.seed):
        # The dense model needs no calibration: its seed is 0 in every table.
        seed, calibrated = calibration.seed if recipe else 0, prepared.calibration.source
        key = key_of({"method": method, "setting": setting or "nan", "seed": seed,
                      "calibration": calibrated, "evaluation": ""})[:-1]  # fmt: skip
        missing = [text for text in texts if (*key, text.source) not in done]
        if not missing:
            continue
        done |= {(*key, text.source) for text in missing}
        for row in rows_of(given, prepared, missing, recipe):
            named = {"method": method, "setting": setting, "seed": seed, **row}
            rows.append(named)
            print(method, setting, f"{named['perplexity']:.2f}", named["evaluation"], flush=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    rows += [row for row in rows_of_runs(given.runs, prepared, calibration, texts)
             if key_of(row) not in done]  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    calibration = "" if row["method"] == DENSE else without_seed(row["calibration"])
    return row["method"], str(row["setting"]), row["seed"], calibration, row["evaluation"]


def without_seed(source: str) -> str:
    """A text's description, the same for all seeds."""
    return re.sub(r", seed \d+", "", source)


Planned = tuple[str, str, Callable[[], Recipe] | None]


def planned(given: argparse.Namespace, prepared: Prepared, seed: int) -> Iterator[Planned]:
    """Method, setting, and what makes its recipe (nothing for the dense model).

    One method after the other at each setting, so that an early stop leaves whole columns.
    """
    yield DENSE, "", None
    profiles = dict(named.replace("{seed}", str(seed)).split("=", 1) for named in given.profiles)
    for setting in filter(None, given.settings.split(",")):
        for method in filter(None, given.methods.split(",")):
            yield method, setting, partial(recipe_of, method, setting, prepared, profiles)
    for named in given.recipes:
        name, _, file = named.partition("=")
        recipe = Recipe.read(Path(file))
        setting = f"{prepared.layout.sparsity(recipe.drop):.4g}"
        yield f"{FOUND}{name}", setting, partial(Recipe.read, Path(file))


def recipe_of(
    method: str,
    setting: str,
    prepared: Prepared,
    profiles: Mapping[str, str] = MappingProxyType({}),
) -> Recipe:
    plain, *words = method.split("/")
    name, _, profile = plain.partition("@")
    name, extra = EXTRA.get(name, (name, {}))
    options, beyond = options_of(words)
    where = {"pattern": setting} if ":" in setting else {"sparsity": float(setting)}
    profile = profiles.get(profile, profile or "uniform")
    named = NamedMethod(name, **{**extra, **options, **where, "profile": profile})
    return replace(named.on(prepared), **beyond)


QUADRATIC = {"shift": "target_shift", "damping": "damping", "guided": "guided"}


def options_of(texts: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a named method is asked for, and the fields of its recipe that no method names."""
    given = dict(text.split("=", 1) for text in texts)
    options: dict[str, Any] = {}
    beyond: dict[str, Any] = {}
    said = {key: given.pop(key) for key in QUADRATIC if key in given}
    if said:
        options["quadratic"] = {QUADRATIC[key]: yaml.safe_load(text) for key, text in said.items()}
    if "order" in given:
        options["order"] = given.pop("order")
    if "lambda" in given:
        options["moonshot_lambda"] = float(given.pop("lambda"))
    if "roles" in given:
        options["moonshot_roles"] = given.pop("roles").replace("+", ",")
    if "reconstruct" in given:
        text = given.pop("reconstruct")
        beyond["reconstruct"] = ReconstructionSettings.parsed(text, "/reconstruct")
    if given:
        raise SystemExit(
            f"/{next(iter(given))}=…: write /lambda=0.5, /roles=gate+up, /shift=0.5, "
            f"/damping=auto, /guided=1, /order=site or /reconstruct=block:epochs=5."
        )
    return options, beyond


def rows_of(
    given: argparse.Namespace,
    prepared: Prepared,
    texts: Sequence[TokenBatches],
    make: Callable[[], Recipe] | None,
) -> Iterator[dict[str, object]]:
    started, notes, sparsity = time.perf_counter(), [], 0.0
    with working_weights(prepared.loaded.model, prepared.layout) as working:
        if make is not None:
            recipe = make()
            recipe.check(prepared.layout)
            sparsity = prepared.layout.sparsity(recipe.drop)
            applied = apply_to(prepared, working, recipe, True, given.gradient_sequences)
            notes = [f"{r.name}: {note}" for r in applied.reports for note in r.notes]
        pruned = time.perf_counter() - started
        for text in texts:
            held = held_out(prepared.loaded.model, text)
            yield {
                "sparsity": round(sparsity, 6),
                "perplexity": round(held.perplexity, 4),
                "error": round(held.perplexity_error, 4),
                "nats": round(held.mean, 6),
                "prune_seconds": round(pruned, 1),
                "calibration": prepared.calibration.source,
                "evaluation": text.source,
                "notes": "; ".join(notes),
                "sequence_nats": json.dumps([round(x, 5) for x in held.nats]),
            }


def rows_of_runs(
    runs: Sequence[str], prepared: Prepared, calibration: TextSpec, texts: Sequence[TokenBatches]
) -> Iterator[dict[str, object]]:
    for name, _, folder in (named.partition("=") for named in runs):
        run = find_run(Path(folder))
        experiment = Experiment.model_validate(read_json(run.manifest)["experiment"])
        if experiment.text_specs["calibration"] != calibration:
            continue
        compared = {row["name"]: row for row in read_json(run.evaluation)["rows"]}
        pick = compared[SEQUENTIAL]
        for text in texts:
            if held := pick["texts"].get(text.source):
                yield {
                    "method": f"{FOUND}{name}",
                    "setting": f"{pick['sparsity']:.4g}",
                    "seed": calibration.seed,
                    "sparsity": round(pick["sparsity"], 6),
                    "perplexity": round(held["perplexity"], 4),
                    "error": round(held["error"], 4),
                    "nats": round(sum(held["nats"]) / len(held["nats"]), 6),
                    "calibration": prepared.calibration.source,
                    "evaluation": text.source,
                    "sequence_nats": json.dumps([round(x, 5) for x in held["nats"]]),
                }


def summarise(given: argparse.Namespace) -> None:
    table = pd.read_csv(given.out / "methods.csv.xz", dtype={"setting": str})
    pruned = where(table, table.method != DENSE)
    seeds = ", ".join(map(str, sorted(set(pruned.seed))))
    calibrations = list(dict.fromkeys(map(without_seed, pruned.calibration)))
    timed = where(pruned, pruned.prune_seconds.notna())
    lines = [
        f"# {given.model}: every named method, block by block",
        "",
        f"Calibration: {'; '.join(calibrations)}, seed {seeds}; "
        f"{given.gradient_sequences} gradient sequences for MOONSHOT (λ = 0.5, attention layers). "
        f"Perplexity ± standard error over sequences; where there are several calibration seeds, "
        f"their mean and (range). METHOD@RULE has the layer sparsities of a published rule, "
        f"`found` was searched.",
        "",
    ]
    for text, rows in groups(table, "evaluation", sort=False):
        lines += [f"## {text}", ""]
        lines += by_calibration(rows) if len(calibrations) > 1 else table_of(rows)
        for calibration in calibrations:
            levers = lever_lines(where(rows, rows.calibration.map(without_seed) == calibration))
            lines += [f"### Levers, calibrated on {calibration}", "", *levers] if levers else []
    seconds = ", ".join(
        f"{method} {rows.prune_seconds.median():.0f}"
        for method, rows in groups(timed, "method", sort=False)
    )
    lines += [f"Seconds to prune (median over settings): {seconds}.", ""] if seconds else []
    lines += [
        origin_line(f"{given.threads} threads, {given.dtype}"),
        "",
    ]
    (given.out / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def table_of(rows: pd.DataFrame) -> list[str]:
    """All methods on one text, one column a setting; then what the found recipes gain."""
    dense = where(rows, rows.method == DENSE).iloc[0]
    pruned = where(rows, rows.method != DENSE)
    settings = settings_of(pruned)
    lines = [f"Dense: {dense.perplexity:.2f} ± {dense.error:.2f}.", ""]
    lines += ["| method | " + " | ".join(map(heading, settings)) + " |"]
    lines += ["| --- |" + " --- |" * len(settings)]
    for method in dict.fromkeys(pruned.method):
        own = where(pruned, pruned.method == method)
        cells = [cell(where(own, own.setting == s)) for s in settings]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines.append("")
    for _, found in where(pruned, pruned.method.str.startswith(FOUND)).iterrows():
        fixed = where(pruned, (pruned.setting == found.setting) & (pruned.seed == found.seed))
        fixed = where(fixed, ~fixed.method.str.startswith(FOUND))
        if fixed.empty:
            continue
        best = fixed.loc[fixed.perplexity.idxmin()]
        gain, error = paired_difference(*(json.loads(x.sequence_nats) for x in (best, found)))
        lines += [
            f"{found.method} at {heading(found.setting)}, seed {found.seed}: better by "
            f"{gain:+.4f} ± {error:.4f} nats per token (paired) than the best of {len(fixed)} "
            f"fixed methods, {best.method}.",
            "",
        ]
    return lines


def by_calibration(rows: pd.DataFrame) -> list[str]:
    """Perplexity of all methods, one column a calibration text; then their gains on the first."""
    dense = where(rows, rows.method == DENSE).iloc[0]
    pruned = where(rows, rows.method != DENSE)
    pruned = pruned.assign(text=pruned.calibration.map(without_seed))
    texts, lines = list(dict.fromkeys(pruned.text)), [f"Dense: {dense.perplexity:.2f}.", ""]
    for setting, some in groups(pruned, "setting"):
        first, *others = dict.fromkeys(some.method)
        tables = {f"Perplexity at {heading(setting)}": [first, *others]}
        tables[f"Nats per token better than {first}, at {heading(setting)}"] = others
        for number, (title, methods) in enumerate(tables.items()):
            lines += [f"{title}: mean over calibration seeds, ± their standard deviation.", ""]
            lines += ["| calibration | " + " | ".join(methods) + " |"]
            lines += ["| --- |" + " --- |" * len(methods)]
            for text in texts:
                by_seed = {
                    m: r.set_index("seed")
                    for m, r in groups(where(some, some.text == text), "method")
                }
                cells = []
                for method in methods:
                    values = by_seed[method].perplexity
                    if number:
                        values = by_seed[first].nats - by_seed[method].nats
                    spread = f" ± {values.std():.2g}" if len(values) > 1 else ""
                    cells.append(
                        (f"{values.mean():+.4f}" if number else f"{values.mean():.2f}") + spread
                    )
                lines.append(f"| {text} | " + " | ".join(cells) + " |")
            lines.append("")
    return lines


def cell(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    if len(rows) == 1:
        row = rows.iloc[0]
        return f"{row.perplexity:.2f} ± {row.error:.2f}"
    low, high = rows.perplexity.min(), rows.perplexity.max()
    return f"{rows.perplexity.mean():.2f} ({low:.2f} to {high:.2f}, {len(rows)} seeds)"


def spec_of(text: str, seed: int) -> TextSpec:
    """SOURCE@SPLIT:SEQUENCESxLENGTH; SOURCE alone (a file) has no split. 200x512-24-91: without
    what draws of 24 and then 91 windows take."""
    where, _, size = text.rpartition(":")
    source, _, split = where.partition("@")
    size, *after = size.split("-")
    sequences, seq_len = map(int, size.split("x"))
    earlier = tuple(map(int, after))
    return TextSpec(source, split or "all", sequences, seq_len, seed=seed, after=earlier)


if __name__ == "__main__":
    main()
