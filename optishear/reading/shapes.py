"""What a reader needs of a file's data, declared; what is otherwise is refused before its use."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from optishear.errors import ConfigError


class Shape(BaseModel):
    """The keys that somebody reads, with their types. Others may be there: files say more than one
    reader asks for. Nothing is converted: a text is no number, and true is none either."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def shaped(shape: type[S], data: Any, where: str, mend: str = "Mend it.") -> S:
    """`data` as `shape`, or a `ConfigError` of the first key that is not as it should be."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: is {type(data).__name__}, not an object with keys. {mend}")
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {complaint(error)} {mend}") from None


def complaint(error: ValidationError) -> str:
    """The first of pydantic's findings as a sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the whole"
    if first["type"] == "missing":
        return f"{key} is missing."
    found = repr(first["input"])
    return f"{key}: {first['msg']}, found {found if len(found) < 80 else f'{found[:80]}…'}."
