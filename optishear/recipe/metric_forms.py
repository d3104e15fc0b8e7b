"""The words of the searchable metrics, and which of their settings rank weights alike.

Two genomes with one mask are one evaluation, so every metric is brought to a canonical form
before it gets a key. Nothing here computes a score: that is `optishear.metrics`.
"""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

from optishear.recipe.formula import canonical_formula, parse_formula
from optishear.recipe.pattern import Pattern


OWN = "own"  # in a metric's place, where the solver chooses by itself
GIVEN = "given"  # the same, where a mask from elsewhere says what to keep
TRANSFORMS = ("no_op", "sqrt", "pow", "exp", "log", "sigmoid", "softmax")
COEFFICIENTS = (
    "no_coe",
    "row_sum",
    "column_sum",
    "relative_sum",
    "to_sum_scalar",
    "to_mean_scalar",
    "frobenius_norm",
)
META_GENES = ("weight_transform", "input_transform", "weight_coefficient", "input_coefficient")
POWER_GENES = ("alpha", "beta", "gamma", "delta", "mix")

# Metrics that are points of a searchable form, up to a factor that moves no rank.
NAMED_POINTS: dict[str, dict[str, dict[str, Any]]] = {
    "power": {
        "magnitude": {"alpha": 1.0, "beta": 0.0, "gamma": 0.0, "delta": 0.0, "mix": 0.0},
        "wanda": {"alpha": 1.0, "beta": 0.0, "gamma": 0.0, "delta": 1.0, "mix": 0.0},
        "ria": {"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "delta": 0.5, "mix": 0.5},
    },
    "meta": {
        "wanda": dict(zip(META_GENES, ("no_op", "no_op", "no_coe", "no_coe"), strict=True)),
        "magnitude": dict(zip(META_GENES, ("no_op", "pow", "no_coe", "column_sum"), strict=True)),
    },
}
_EXPONENT = {"no_op": 1.0, "sqrt": 0.5, "pow": 2.0}
_ONE_ROW_NEUTRAL = ("no_coe", "row_sum", "to_sum_scalar", "to_mean_scalar", "frobenius_norm")
_LAYER_NEUTRAL = ("no_coe", "to_sum_scalar", "to_mean_scalar", "frobenius_norm")


def canonical_metric(
    spec: Mapping[str, Any], pattern: Pattern, row_inputs: bool = False
) -> dict[str, Any]:
    """The simplest metric that gives every layer the same mask under this pattern.

    `row_inputs`: whether each output row has inputs of its own, as under MOONSHOT's mix.
    """
    match spec.get("name"):
        case "meta":
            return _canonical_meta(spec, pattern.rows_compete, row_inputs)
        case "power":
            return _canonical_power(spec, pattern)
        case "ria" if spec.get("power", 0.5) == 0.5:
            return {"name": "ria"}
        case "tree" if "formula" in spec:
            return {**spec, "formula": canonical_formula(spec["formula"])}
    return dict(spec)


def reads_inputs(spec: Mapping[str, Any]) -> bool:
    """Whether the layer's inputs have a say in the metric's ranking."""
    match spec.get("name"):
        case "magnitude" | "random" | "given":
            return False
        case "power":
            return spec.get("delta", NAMED_POINTS["power"]["wanda"]["delta"]) != 0
        case "ria":
            return spec.get("power", 0.5) != 0
        case "tree" if "formula" in spec:
            return "X" in parse_formula(spec["formula"]).leaves
    return True


def distinct_meta_genomes(pattern: Pattern) -> list[dict[str, Any]]:
    """One metric for each class of the paper's 2,401 genomes that rank alike."""
    seen = {}
    for values in product(TRANSFORMS, TRANSFORMS, COEFFICIENTS, COEFFICIENTS):
        spec = {"name": "meta", **dict(zip(META_GENES, values, strict=True))}
        metric = canonical_metric(spec, pattern)
        seen[tuple(sorted(metric.items()))] = metric
    return list(seen.values())


def _canonical_meta(
    spec: Mapping[str, Any], rows_compete: bool, row_inputs: bool
) -> dict[str, Any]:
    genome = tuple(spec.get(gene, NAMED_POINTS["meta"]["wanda"][gene]) for gene in META_GENES)
    signature = _meta_signature(genome, rows_compete, row_inputs)
    for name, point in NAMED_POINTS["meta"].items():
        if row_inputs and name == "magnitude":
            continue  # that point divides the one row of inputs by itself
        if signature == _meta_signature(tuple(point.values()), rows_compete, row_inputs):
            return {"name": name}
    first = _first_of_class(rows_compete, row_inputs)[signature]
    return {"name": "meta", **dict(zip(META_GENES, first, strict=True))}


@cache
def _first_of_class(rows_compete: bool, row_inputs: bool) -> dict[tuple, tuple[str, ...]]:
    first: dict[tuple, tuple[str, ...]] = {}
    for genome in product(TRANSFORMS, TRANSFORMS, COEFFICIENTS, COEFFICIENTS):
        first.setdefault(_meta_signature(genome, rows_compete, row_inputs), genome)
    return first


def _meta_signature(genome: tuple[str, ...], rows_compete: bool, row_inputs: bool) -> tuple:
    """Equal signatures, equal ranking.

    Where rows do not compete every factor that depends on the row alone is neutral; where they do
    only the scalars are. Softmax is exp over such a factor. The inputs' factor has one row, unless
    `row_inputs`, so there the sums over a column are powers too. Where both transforms are powers,
    S^(1/p) ranks as S does, and only the exponents that are left count.
    """
    on_weight, on_input, a, b = genome
    rows_differ = rows_compete and row_inputs
    if on_weight == "softmax" and not rows_compete:
        on_weight = "exp"
    if on_input == "softmax" and not rows_differ:
        on_input = "exp"
    a = "no_coe" if a in (_LAYER_NEUTRAL if rows_compete else _ONE_ROW_NEUTRAL) else a
    b = "no_coe" if b in (_LAYER_NEUTRAL if rows_differ else _ONE_ROW_NEUTRAL) else b
    if on_weight not in _EXPONENT or on_input not in _EXPONENT:
        return on_weight, on_input, a, b
    p, q = _EXPONENT[on_weight], _EXPONENT[on_input]
    if b == "column_sum" and not row_inputs:  # X is the squared norm: 1/X takes two powers off
        b, q = "no_coe", q - 2
    return (
        "power",
        a,
        1 / p if a != "no_coe" else 0.0,
        q / p,
        b,
        1 / p if b != "no_coe" else 0.0,
    )


def _canonical_power(spec: Mapping[str, Any], pattern: Pattern) -> dict[str, Any]:
    """Rounded to 4 decimals; where the sum has one term left, divided through by alpha."""
    wanda = NAMED_POINTS["power"]["wanda"]
    values = tuple(float(spec.get(gene, wanda[gene])) for gene in POWER_GENES)
    simpler = _simplify(values, pattern)
    while simpler != values:  # dividing and rounding may leave another exponent at zero
        values, simpler = simpler, _simplify(simpler, pattern)
    settings = dict(zip(POWER_GENES, values, strict=True))
    for name, point in NAMED_POINTS["power"].items():
        if settings == point:
            return {"name": name}
    return {"name": "power", **settings}


def _simplify(values: tuple[float, ...], pattern: Pattern) -> tuple[float, ...]:
    alpha, beta, gamma, delta, mix = (round(value, 4) + 0.0 for value in values)
    if mix == 0 and not pattern.rows_compete:
        beta = 0.0  # the row's own sum moves no rank inside the row
    if mix == 1 or (mix != 0 and beta == gamma == 0):
        beta, mix = 0.0, (1.0 if gamma else 0.0)
    if mix == 0:
        gamma = 0.0
    if mix in (0, 1) and alpha > 0:
        alpha, beta, gamma, delta = 1.0, beta / alpha, gamma / alpha, delta / alpha
    return tuple(round(value, 4) + 0.0 for value in (alpha, beta, gamma, delta, mix))
