"""The forward pass as CUDA graphs: batch shapes are few, and most of a small model's time is what
the host takes to launch its kernels one by one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.head import hidden_states
from optishear.tasks import task_of


WARM_UP = 3  # forwards before a capture: what is set up lazily must not be part of it
ROUNDINGS = 8  # of the hidden states' norm that a graph may be off from the model as it is

Run = Callable[[], Tensor]


class GraphedForward:
    """Final hidden states of fixed batches (each a tensor), by a graph for each shape among them.

    Weights must stay where they are and be written in place, as `weights.working_weights` has it.
    Making one captures every shape and checks its graph on other samples than it was captured with;
    raises `ConfigError` where the model cannot be captured or its graph answers something else.

    Memory: the activations of one batch of each shape, which the graphs hold on to.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Tensor],
        capture: Callable[[Run], Run] | None = None,
    ) -> None:
        self.model, self.batches = model, batches
        device = next(model.parameters()).device.type
        if capture is None and device != "cuda":
            raise ConfigError(f"cuda_graphs: the model is on {device!r}. Put it on a CUDA device.")
        self._given: dict[torch.Size, Tensor] = {}
        self._replay: dict[torch.Size, Run] = {}
        for batch in batches:
            if batch.shape not in self._replay:
                self._capture(batch, capture or cuda_graph)

    def hidden_states(self, batch: int) -> Float[Tensor, "*rows hidden"]:
        """Valid until the next call: a graph writes its answer to the same place each time."""
        return self._run(self.batches[batch])

    def _run(self, batch: Tensor) -> Float[Tensor, "*rows hidden"]:
        self._given[batch.shape].copy_(batch)
        return self._replay[batch.shape]()

    @torch.no_grad()
    def _capture(self, batch: Tensor, capture: Callable[[Run], Run]) -> None:
        given = batch.clone()
        try:
            replay = capture(lambda: hidden_states(self.model, given))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ConfigError(
                f"cuda_graphs: the forward of {type(self.model).__name__} cannot be captured "
                f"({str(error).splitlines()[0]}). Set cuda_graphs to false."
            ) from error
        self._given[batch.shape], self._replay[batch.shape] = given, replay
        task = task_of(self.model)
        other = task.other(batch)
        want, got = hidden_states(self.model, other).float(), self._run(other).float()
        miss = ((got - want).norm() / want.norm()).item()
        if not miss <= ROUNDINGS * torch.finfo(next(self.model.parameters()).dtype).eps:
            raise ConfigError(
                f"cuda_graphs: captured, {type(self.model).__name__} answers other "
                f"{task.unit_name} with hidden states that are off by {miss:.1e} of their norm. "
                f"Set cuda_graphs to false."
            )


def cuda_graph(run: Run) -> Run:
    """`run` as one graph, which reads and writes anew where `run` read and wrote."""
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = run()

    def replay() -> Tensor:
        graph.replay()
        return answer

    return replay
