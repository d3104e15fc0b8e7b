import pytest
import torch
from problems import KINDS, SmallLayer
from torch.overrides import TorchFunctionMode

from optishear.calibration.statistics import InputSq
from optishear.errors import ConfigError
from optishear.recipe.pattern import Row
from optishear.solvers import products
from optishear.solvers.masks import keep_highest
from optishear.solvers.products import PRODUCTS, product
from optishear.solvers.refit import REPLACE, _descend, exact_refit, refit


def rounded_to_tf32(x):
    """To 11 significant bits, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@pytest.fixture
def tf32(monkeypatch):
    """What a GPU's tensor cores would make of it."""
    monkeypatch.setitem(PRODUCTS, "tf32", lambda x, m: rounded_to_tf32(x) @ rounded_to_tf32(m))


def problem(kind="plain", lam=1.0, width=160):
    layer = SmallLayer(kind, width=width, tokens=300)
    drop = int(0.7 * layer.weight.numel())
    keep = keep_highest(layer.weight.float().abs() * layer.stats[InputSq].total.sqrt(), drop, Row())
    return layer, layer.quadratic(lam), keep


def cost(layer, quadratic, weight):
    change = weight.double() - layer.weight.double()
    return 0.5 * torch.einsum("ri,rij,rj->", change, layer.row_hessians(quadratic), change).item()


def error(precision):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 300, generator=generator)
    matrix = torch.randn(300, 50, generator=generator)
    right = x.double() @ matrix.double()
    return ((product(x, matrix, precision).double() - right).norm() / right.norm()).item()


def test_three_products_of_bfloat16_are_nearly_fp32(tf32):
    assert error("highest") < 1e-6
    assert error("highest") < error("bf16x3") < 1e-5 < 1e-4 < error("tf32") < 1e-3


def test_fp32_on_a_cpu_is_the_plain_product_to_the_bit():
    x, matrix = torch.randn(7, 30), torch.randn(30, 11)
    assert torch.equal(product(x, matrix), x @ matrix)


def test_the_setting_for_gpus_is_tf32_for_this_product_only():
    settings, seen = torch.backends.cuda.matmul, []
    before = settings.fp32_precision

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
                seen.append(settings.fp32_precision)
                raise MemoryError
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, 3)
    with Watch(), pytest.raises(MemoryError):
        products.in_tf32(x, x.T)
    assert seen == ["tf32"]
    assert settings.fp32_precision == before


def test_an_unknown_precision_is_named_with_those_there_are():
    layer, quadratic, keep = problem()
    with pytest.raises(ConfigError, match=r"'tf16'.*bf16x3, highest, tf32"):
        refit(quadratic, layer.weight, keep, precision="tf16")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [1.0, 0.4])
@pytest.mark.parametrize("precision", ["tf32", "bf16x3"])
def test_a_refit_of_less_than_fp32_keeps_its_word(tf32, kind, lam, precision):
    layer, quadratic, keep = problem(kind, lam)
    least = cost(layer, quadratic, exact_refit(quadratic, layer.weight, keep))
    for tolerance in (1e-3, 1e-5):
        found = refit(quadratic, layer.weight, keep, tolerance=tolerance, precision=precision)
        true = cost(layer, quadratic, found.weight) / least - 1
        assert true <= found.excess + 2e-6
        assert found.excess <= tolerance


@pytest.mark.parametrize("lam", [1.0, 0.4])
def test_it_takes_few_steps_more_than_fp32(tf32, lam):
    layer, quadratic, keep = problem("rank_deficient", lam)
    plain = refit(quadratic, layer.weight, keep).iterations
    for precision in ("tf32", "bf16x3"):
        found = refit(quadratic, layer.weight, keep, precision=precision)
        assert plain <= found.iterations <= plain + 4


@pytest.mark.parametrize("kind", ["plain", "one_token"])
@pytest.mark.parametrize("steps", [3, REPLACE, REPLACE + 4])
def test_the_bound_is_true_wherever_the_steps_end_even_where_they_lead_astray(tf32, kind, steps):
    layer, quadratic, keep = problem(kind)
    least = cost(layer, quadratic, exact_refit(quadratic, layer.weight, keep))
    start = layer.weight.masked_fill(~keep, 0)
    part = quadratic.part(slice(0, len(start)))
    weight, bound, stated, _ = _descend(part, layer.weight, keep, start, 0.0, steps, "tf32")
    true = cost(layer, quadratic, weight)
    assert stated == pytest.approx(true, rel=1e-4)
    assert true - least <= bound * 1.001 + 1e-6 * least


def test_residuals_are_made_anew_in_fp32_every_so_often(monkeypatch):
    made = []
    for name in PRODUCTS:
        monkeypatch.setitem(PRODUCTS, name, _recorded(made, name, PRODUCTS[name]))
    layer, quadratic, keep = problem("rank_deficient")
    refit(quadratic, layer.weight, keep, tolerance=1e-4, precision="bf16x3")
    step, anew = ["bf16x3"] * 2, ["bf16x3", "highest", "highest"]
    assert made[: 2 + 2 * REPLACE + 1] == ["highest"] * 2 + step * (REPLACE - 1) + anew
    assert made[-3:] == anew  # and at the end


def _recorded(made, name, times):
    def recorded(x, matrix):
        made.append(name)
        return times(x, matrix)

    return recorded


def test_where_a_precision_cannot_hold_the_hessian_fp32_takes_over(tf32):
    layer, quadratic, keep = problem("one_token")
    plain = refit(quadratic, layer.weight, keep, tolerance=1e-6)
    found = refit(quadratic, layer.weight, keep, tolerance=1e-6, precision="tf32")
    assert torch.equal(found.weight, plain.weight)
    assert found.excess == plain.excess
    assert found.iterations <= 2 * REPLACE
