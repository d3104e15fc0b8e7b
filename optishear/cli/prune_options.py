"""Checks of `prune`'s options together: none that is given is without effect."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optishear.errors import ConfigError


if TYPE_CHECKING:
    from optishear.calibration.origin import Origin
    from optishear.text.sources import TextSpec
    from optishear.tools.named import NamedMethod


def refuse_contradictions(
    sources: Mapping[str, Any], of_methods: Mapping[str, Any], refit: bool
) -> None:
    """One source of what to do, and only options that go with it."""
    given = [option for option, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"Give one of {', '.join(sources)}; found {len(given)} of them.")
    [source] = given
    extra = [option for option, value in of_methods.items() if value is not None]
    if source.startswith("--recipe") and refit:
        extra.append("--refit")
    if not source.startswith("--method") and extra:
        raise ConfigError(
            f"{', '.join(extra)}: a recipe or a mask has its own. Leave them out, or use --method."
        )


def refuse_whole_model(options: Mapping[str, Any]) -> None:
    """What reads all layers before the first is pruned does not go with --stream."""
    if given := [option for option, value in options.items() if value]:
        raise ConfigError(
            f"{', '.join(given)}: needs the whole model in memory. Leave it or --stream out."
        )


def refuse_idle(named: "NamedMethod", roles: str | None) -> None:
    """What a method has no use for would be written nowhere."""
    method = f"--method {named.method}"
    if named.refit and named.refits_already:
        raise ConfigError(f"--refit: {method} ends in one by itself. Leave it out.")
    if roles is not None and named.plain:
        raise ConfigError(
            f"--moonshot-roles: {method} mixes no Taylor loss in. Give --moonshot-lambda too, or "
            f"leave it out."
        )
    if "damping" in named.quadratic and not named.solves:
        raise ConfigError(
            f"--damping: {method} solves no system of equations. Add --refit, or leave it out."
        )
    if "guided" in named.quadratic and not named.needs:
        raise ConfigError(f"--guided: {method} reads no calibration text. Leave it out.")
    if named.settings.guided and not named.plain:
        raise ConfigError(
            f"--guided: {method} mixes a Taylor loss in, which is of the same gradients. Leave one "
            f"of them out."
        )
    if named.order is not None and not named.needs:
        raise ConfigError(f"--order: {method} reads no calibration text. Leave it out.")


def reconstruction_asked(text: str | None) -> dict[str, Any]:
    """What `--reconstruct` says beyond a recipe, a method or a mask, as fields of a recipe."""
    from optishear.recipe.reconstruction import ReconstructionSettings

    if text is None:
        return {}
    none = text == "none"
    return {"reconstruct": None if none else ReconstructionSettings.parsed(text, "--reconstruct")}


def refuse_gradients(samples: int, reads_gradients: bool, calibration: "TextSpec") -> None:
    if not reads_gradients:
        raise ConfigError(
            "--gradient-sequences: what is to be done reads no gradients. Leave it out, or give "
            "--moonshot-lambda below 1."
        )
    if 0 < calibration.sequences < samples:
        raise ConfigError(
            f"--gradient-sequences {samples}: there are {calibration.sequences} calibration "
            f"sequences. Give no more than that, or more --sequences."
        )


def damping_asked(text: str | None) -> float | str | None:
    """`auto`, or a number; whether it can be one is for others to say."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def calibration_asked(
    model: str,
    text: str | None,
    field: str | None,
    sequences: int | None,
    seq_len: int | None,
    bos: str | None,
    found: "Origin",
) -> "TextSpec":
    """What the user names; the rest is as the recipe was found with, else the model's usual."""
    from optishear.text.bos import check_place
    from optishear.tools.texts import text_named, usual_text

    spec = found.calibration or usual_text(model, "train")
    count = spec.sequences if sequences is None else sequences
    length = seq_len or spec.seq_len
    place = spec.bos if bos is None else check_place(bos, "--bos")
    if text is not None:
        return replace(text_named(text, count, length, "train", field, place), seed=spec.seed)
    if field is not None:
        raise ConfigError("--text-field: says where the text is in the rows of --text; give both.")
    return replace(spec, sequences=count, seq_len=length, bos=place)
