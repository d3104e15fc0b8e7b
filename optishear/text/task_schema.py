"""The part of lm-eval's task files that is plain data: zero-shot multiple choice on local files."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optishear.errors import ConfigError
from optishear.reading.texts import text_of
from optishear.reading.yaml_data import yaml_of
from optishear.recipe.lookup import did_you_mean


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Data(_Strict):
    data_files: dict[str, str]


class _Metric(_Strict):
    metric: Literal["acc", "acc_norm", "acc_bytes"]
    aggregation: Literal["mean"] = "mean"
    higher_is_better: Literal[True] = True


class _Metadata(_Strict):
    version: float | int | str = 1.0


class TaskFile(_Strict):
    """A task file; every key means what it means to lm-eval, and there are no others."""

    task: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    tag: str | list[str] | None = None
    dataset_path: Literal["json"]
    dataset_kwargs: _Data
    validation_split: str | None = None
    test_split: str | None = None
    output_type: Literal["multiple_choice"]
    doc_to_text: str
    doc_to_choice: str | list[str]
    doc_to_target: str | int
    target_delimiter: str = " "
    num_fewshot: Literal[0] = 0
    metric_list: list[_Metric] = Field(
        default=[_Metric(metric="acc"), _Metric(metric="acc_norm")], min_length=1
    )
    metadata: _Metadata = _Metadata()


def read_task_file(path: Path) -> TaskFile:
    """The checked content, as plain data; `ConfigError` for tags, unknown keys and values."""
    try:
        data = yaml_of(text_of(path), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(data).__name__}.")
    try:
        return TaskFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(TaskFile.model_fields)
            raise ConfigError(
                f"{path}: {key}: is not read from local task files.{did_you_mean(key, known)} "
                f"There are: {', '.join(known)}."
            ) from None
        raise ConfigError(f"{path}: {key}: {first['msg']}, found {first['input']!r}.") from None
