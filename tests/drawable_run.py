"""Made-up runs: files as a search leaves them, of any size and kind, without a model."""

import numpy as np

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.records.run_directory import RunDirectory, write_json
from optishear.search.front import knee, non_dominated


OBJECTIVES = {
    "sparsity": {"name": "sparsity", "maximise": True, "unit": "fraction of prunable weights"},
    "reconstruction": {"name": "reconstruction", "maximise": False, "unit": "‖Δ logits‖_F"},
    "kl": {"name": "kl", "maximise": False, "unit": "nats/token"},
    "perplexity": {"name": "perplexity", "maximise": False, "unit": "perplexity (search text)"},
}
BOTH = ("sparsity", "reconstruction")
LLAMA = {
    "self_attn.q_proj": (16, 24), "self_attn.k_proj": (8, 24), "self_attn.v_proj": (8, 24),
    "self_attn.o_proj": (24, 16), "mlp.gate_proj": (40, 24), "mlp.up_proj": (40, 24),
    "mlp.down_proj": (24, 40),
}  # fmt: skip
EXPERTS = {f"mlp.experts.{part}": (12, 24) for part in ("gate_proj", "up_proj", "down_proj")}
SHARED = {f"mlp.shared_expert.{part}": (20, 24) for part in ("gate_proj", "up_proj", "down_proj")}
MIXTURE = {**dict(list(LLAMA.items())[:4]), **EXPERTS, **SHARED, "mlp.router": (4, 24)}


def layout_of(blocks, roles=LLAMA, experts=1):
    layers = []
    for block in range(blocks):
        for role, (rows, columns) in roles.items():
            for expert in range(experts if ".experts." in role else 1):
                name = f"layers.{block}.{role}.{expert}"
                layers.append(Layer(name, block, role, rows, columns, name))
    return ModelLayout(tuple(layers))


def values_of(layout, drop, targets, random, wild):
    """Sparser is worse, and further from a good profile is worse; a few are lost altogether."""
    sparsity = layout.sparsity(drop)
    error = 3 * np.exp(
        3.2 * sparsity + 1.2 * np.std(list(targets.values())) + 0.1 * random.normal()
    )
    if wild:
        error *= 1e4
    kl = 0.002 * error * np.exp(0.5 * random.normal() - 0.8 * sparsity)
    return {"sparsity": sparsity, "reconstruction": error, "kl": kl, "perplexity": 20 + error}


def make_run(
    path, *, objectives=BOTH, blocks=6, roles=LLAMA, experts=1, candidates=60, failing=0,
    wild=0, baselines=True, same_sparsity=False, pick="knee", far=3.1, decades=0,
    title=("quickstart", "embedded"),
):  # fmt: skip
    run, random, layout = (
        RunDirectory(path),
        np.random.default_rng(0),
        layout_of(blocks, roles, experts),
    )
    run.path.mkdir(parents=True, exist_ok=True)
    depth = {layer.name: layer.block / max(blocks - 1, 1) for layer in layout.layers}
    bias = dict(zip(layout.roles, random.normal(0, 0.08, len(layout.roles))))
    recipes, rows = [], []
    with Journal(run.journal, {"model": "made up"}, list(layout.sizes)) as journal:
        for index in range(candidates):
            settled = 1 - 0.8 * index / candidates
            mean = 0.6 if same_sparsity else random.uniform(0.3, 0.75)
            targets = {
                layer.name: mean + 0.1 * (depth[layer.name] - 0.5) + bias[layer.role]
                + settled * random.normal(0, 0.12)
                for layer in layout.layers
            }  # fmt: skip
            budget = int(mean * layout.total)
            drop = project(targets, layout, parse_pattern("layer"), Bounds(0.05, 0.95), budget)
            recipe = Recipe.of(
                {"name": "power", "alpha": round(random.uniform(0.5, 2), 4)}, drop, "layer"
            )
            values = values_of(layout, drop, targets, random, wild=5 <= index < 5 + wild)
            values["kl"] *= 10 ** (decades * random.uniform())
            failed = failing and index % max(candidates // failing, 1) == 2
            outcome = {"values": None if failed else values, "reason": "x" * failed, "seconds": 0.1}
            journal.append(recipe, 4096, outcome)
            if not failed:
                recipes.append(recipe)
                rows.append(values)
    signs = [-1 if OBJECTIVES[name]["maximise"] else 1 for name in objectives]
    points = np.array([[row[name] for name in objectives] for row in rows]) * signs
    front, picked = non_dominated(points), knee(points)
    entries = [
        {"key": recipes[i].key, "values": rows[i], "recipe": recipes[i].to_json()} for i in front
    ]
    content = {
        "format": "optishear-front/1", "experiment": title[0], "model": title[1],
        "objectives": [OBJECTIVES[name] for name in objectives], "pick": pick,
        "picked": recipes[picked].key, "layout": layout.to_json(),
        "entries": sorted(entries, key=lambda entry: [entry["values"][o] for o in objectives]),
    }  # fmt: skip
    write_json(run.front, content)
    if baselines:
        found, texts = rows[picked], {"held out": {"perplexity": 32.1, "error": 0.4}}
        magnitude = {
            name: value * (1 if name == "sparsity" else far) for name, value in found.items()
        }
        wanda = {name: value * (1 if name == "sparsity" else 1.35) for name, value in found.items()}
        searched = {"dense": None, "magnitude": magnitude, "wanda": wanda, "found": found}
        table = [
            {"name": name, "sparsity": found["sparsity"], "search": values, "texts": texts}
            for name, values in searched.items()
        ]
        write_json(run.evaluation, {"picked": recipes[picked].key, "rows": table})
    return run


def finish(run, name="made up", model="embedded", rows=None, **changes):
    """The manifest that the search of `run` would have left, and the held-out comparison with it
    (of other `rows`, if given) where the run has one."""
    text = {"source": "embedded", "split": "train", "sequences": 8, "seq_len": 64}
    experiment = {
        "name": name, "model": model, "dtype": "float32", "device": "cpu",
        "text": {"calibration": text, "search": text, "evaluation": [{**text, "sequences": 0}]},
        "space": {
            "pattern": "row", "metric": [{"name": "power", "alpha": {"real": [0.5, 2.0]}}],
            "sparsity": {"by": "block", "budget": None}, "objectives": None,
        },
        "objectives": ["sparsity", "reconstruction"], "record": ["kl"],
        "search": {"driver": "nsga2", "population": 8, "evaluations": 60, "seed": 3},
        "pick": "knee", "baselines": ["magnitude", "wanda"],
    }  # fmt: skip
    manifest = {
        "status": "finished", "experiment": experiment, "hash": "abc123def456",
        "started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T10:01:00+00:00",
        "ended": "the evaluation budget is spent",
        "measure": {"model": "m0", "layout": "l0", "calibration": "c0", "search": "s0"},
        "code": {"commit": "0123456789abcdef", "dirty": True},
        "versions": {"python": "3.11", "torch": "2.13"},
        "machine": {"system": "Linux", "processor": "a processor", "cores": 2},
    } | changes  # fmt: skip
    write_json(run.manifest, manifest)
    if rows is not None or run.evaluation.exists():
        rows = held_out_rows() if rows is None else rows
        write_json(run.evaluation, {"picked": "x", "rows": rows})
    return run


def held_out_rows(text="embedded/evaluation", block_by_block=(-0.002, 0.0008), **gains):
    """`gains`: by how many nats a token found is better than a row, and the standard error."""
    gains = {"dense": (-0.3, 0.01), "magnitude": (0.5, 0.02), "wanda": (0.1, 0.01)} | gains
    if block_by_block:
        gains["found, block by block"] = block_by_block
    rows = []
    for name, (gain, error) in {**gains, "found": (0.0, 0.0)}.items():
        numbers = {
            "perplexity": round(float(30 * np.exp(gain)), 3), "error": 0.5,
            "fewer_nats": {} if name == "found" else {"found": {"mean": -gain, "error": error}},
        }  # fmt: skip
        search = {"sparsity": 0.6, "reconstruction": 20.0 * (1 + gain)}
        shown = None if name in ("dense", "found, block by block") else search
        sparsity = 0.0 if name == "dense" else 0.6
        rows.append(
            {
                "name": name, "recipe": None, "sparsity": sparsity, "search": shown,
                "texts": {text: numbers},
            }
        )  # fmt: skip
    return rows
