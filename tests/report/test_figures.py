"""The figures of made-up runs: there, whole, equal from run to run, and nothing in them collides."""

import json
import re
import sys
from itertools import combinations
from subprocess import run as run_process

import matplotlib
import numpy as np
import pytest

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal
from optishear.records.run_directory import RunDirectory, write_json
from optishear.report.figures import draw_figures, make_figures
from optishear.report.style import paper_style
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


def values_of(layout, drop, wish, random, wild):
    """Sparser is worse, and further from a good profile is worse; a few are lost altogether."""
    sparsity = layout.sparsity(drop)
    error = 3 * np.exp(3.2 * sparsity + 1.2 * np.std(list(wish.values())) + 0.1 * random.normal())
    if wild:
        error *= 1e4
    kl = 0.002 * error * np.exp(0.5 * random.normal() - 0.8 * sparsity)
    return {"sparsity": sparsity, "reconstruction": error, "kl": kl, "perplexity": 20 + error}


def make_run(
    path, *, objectives=BOTH, blocks=6, roles=LLAMA, experts=1, candidates=200, failing=0,
    wild=0, baselines=True, same_sparsity=False, pick="knee", title=("quickstart", "embedded"),
):  # fmt: skip
    run, random, layout = RunDirectory(path), np.random.default_rng(0), layout_of(blocks, roles, experts)
    run.create()
    depth = {layer.name: layer.block / max(blocks - 1, 1) for layer in layout.layers}
    bias = dict(zip(layout.roles, random.normal(0, 0.08, len(layout.roles))))
    recipes, rows = [], []
    with Journal(run.journal, {"model": "made up"}, list(layout.sizes)) as journal:
        for index in range(candidates):
            settled = 1 - 0.8 * index / candidates
            mean = 0.6 if same_sparsity else random.uniform(0.3, 0.75)
            wish = {
                layer.name: mean + 0.1 * (depth[layer.name] - 0.5) + bias[layer.role]
                + settled * random.normal(0, 0.12)
                for layer in layout.layers
            }  # fmt: skip
            budget = int(mean * layout.total)
            drop = project(wish, layout, parse_pattern("layer"), Bounds(0.05, 0.95), budget)
            recipe = Recipe({"name": "power", "alpha": round(random.uniform(0.5, 2), 4)}, drop, "layer")
            values = values_of(layout, drop, wish, random, wild=5 <= index < 5 + wild)
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
        magnitude = {name: value * (1 if name == "sparsity" else 3.1) for name, value in found.items()}
        wanda = {name: value * (1 if name == "sparsity" else 1.35) for name, value in found.items()}
        searched = {"dense": None, "magnitude": magnitude, "wanda": wanda, "found": found}
        table = [
            {"name": name, "sparsity": found["sparsity"], "search": values, "texts": texts}
            for name, values in searched.items()
        ]
        write_json(run.evaluation, {"picked": recipes[picked].key, "rows": table})
    return run


RUNS = {
    "two objectives": {},
    "an unfinished run": {"baselines": False, "candidates": 60},
    "thirty blocks": {"blocks": 30, "candidates": 80, "title": ("owl-alpha-70", "meta-llama/Llama-2-7b-hf")},
    "eighty blocks of a mixture": {"blocks": 80, "roles": MIXTURE, "experts": 3, "candidates": 12},
    "failures and extremes": {"failing": 14, "wild": 3, "same_sparsity": False},
    "three objectives": {"objectives": (*BOTH, "kl"), "failing": 5},
    "four objectives": {"objectives": (*BOTH, "kl", "perplexity"), "wild": 2, "candidates": 120},
    "two errors at one sparsity": {"objectives": ("reconstruction", "kl"), "same_sparsity": True},
    "one objective": {"objectives": ("kl",), "same_sparsity": True, "failing": 6},
    "one evaluation of one block": {"blocks": 1, "candidates": 1, "baselines": False},
    "one point on the front": {"same_sparsity": True, "failing": 3, "candidates": 40},
    "a long pick": {"pick": "sparsity>=50%,reconstruction<=40", "blocks": 12, "candidates": 50},
}
