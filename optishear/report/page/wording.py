"""Numbers and lists as text of the page."""

from collections.abc import Sequence

from optishear.report.style import Quantity, number


# Of what is recorded beside the objectives, front.json says no unit.
RECORDED = {"sparsity": Quantity("sparsity", "fraction of prunable weights", True)}
MEANINGS = {
    "sparsity": "the share of prunable weights that is set to zero; more is better",
    "reconstruction": "how far the logits are from the dense model's, as a norm over the search "
    "text; less is better",
    "centred_reconstruction": "how far the logits less their mean over the vocabulary are from the "
    "dense model's, as a norm over the search text; less is better",
    "relative_reconstruction": "how far the logits are from the dense model's, as a share of their "
    "own norm; less is better",
    "kl": "the divergence of the next-token distributions from the dense model's, in nats a token; "
    "0 is the dense model",
    "perplexity": "on the search text, which is not the held-out text; less is better",
    "taylor": "what a second-order estimate says the change costs in loss; less is better",
    "bytes": "the size with pruned layers stored as non-zeros plus one bit a weight",
}


def quantity_of(name: str, objectives: Sequence[Quantity]) -> Quantity:
    """An objective's own, or what is known of a quantity that was only recorded."""
    of_objectives = {quantity.name: quantity for quantity in objectives}
    return of_objectives.get(name) or RECORDED.get(name) or Quantity(name, "", False)


SPACE = "\N{NO-BREAK SPACE}"  # between a number and what belongs to it


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}{SPACE}%"


def value_text(quantity: Quantity, value: float) -> str:
    if quantity.name == "bytes":
        return f"{value / 1e6:.2f}{SPACE}MB"
    return percent(value) if quantity.percent else number(value)


def with_error(value: float, error: float | None, digits: int) -> str:
    """`34.03 ± 1.14`; a single sequence has no error."""
    about = "" if error is None else f"{SPACE}±{SPACE}{error:.{digits}f}"
    return f"{value:.{digits}f}{about}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
