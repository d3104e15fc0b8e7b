"""Fused experts: a module that holds its experts as 3-D parameters, one slice an expert."""

from torch import Tensor, nn


def expert_count(module: nn.Module) -> int:
    """How many experts lie in the 3-D parameters of `module`; 0 where it holds none so.

    The module says the number itself, as `num_experts` or under another name with experts in it: a
    3-D parameter of another kind (a gate for each head) has no such number beside it. A stack may
    be longer: LongCat's has slices for its zero experts too, by which nothing is multiplied.
    """
    lengths = [len(stack) for stack in _stacks(module)]
    if not lengths or type(module).__module__.startswith("torch.nn"):
        return 0
    if (count := getattr(module, "num_experts", None)) in lengths:
        return count
    told = [value for name, value in vars(module).items() if "expert" in name]
    return min(lengths) if min(lengths) in told else 0


def stored_transposed(module: nn.Module) -> bool:
    """Whether its experts are stored as [in, out].

    transformers' `use_experts_implementation` marks them. Where nothing does (Llama-4 multiplies
    by all experts at once), the two stacks of a gated expert tell: one reads what the other makes,
    and of the gate's width only half arrives.
    """
    if (mark := getattr(module, "is_transposed", None)) is not None:
        return bool(mark)
    shapes = [stack.shape[1:] for stack in _stacks(module)]
    if len(shapes) != 2:
        return False
    (into, inner), (half, out) = shapes
    return into == out and inner != half


def _stacks(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters(recurse=False) if p.ndim == 3]
