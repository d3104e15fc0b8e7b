"""Tasks, WHAT A MODEL IS FOR: what a batch is and how it goes through the model, a class each.

To add a task: write the class, add one line here. The model itself says which task is its own.
"""

from torch import nn

from optishear.errors import ConfigError
from optishear.tasks.base import Batch, Samples, Task
from optishear.tasks.causal_lm import CAUSAL_LM


__all__ = ["CAUSAL_LM", "TASKS", "Batch", "Samples", "Task", "task_of"]

TASKS: dict[str, Task] = {
    "causal_lm": CAUSAL_LM,
}


def task_of(model: nn.Module) -> Task:
    """The task that the model was made for; a `ConfigError` where it is none of `TASKS`."""
    for task in TASKS.values():
        if task.head_of(model) is not None:
            return task
    raise ConfigError(
        f"{type(model).__name__} has no output head with a weight, so it gives no logits. "
        f"Load it with `AutoModelForCausalLM`."
    )
