import pytest
import torch
from problems import SmallLayer, operations

from optishear.calibration.statistics import Gram
from optishear.errors import NumericalError
from optishear.solvers.hessian import Hessian, inverse_of_lower


@pytest.fixture
def curvature():
    stats = SmallLayer().stats
    return stats[Gram].total / stats.tokens


def test_the_factors_are_those_of_the_damped_matrix(curvature):
    hessian = Hessian(curvature, damping=0.05)
    unit = curvature.diagonal().mean().item()
    want = curvature.double() + 0.05 * unit * torch.eye(len(curvature), dtype=torch.float64)
    assert torch.allclose(hessian.matrix.double(), want, rtol=1e-6, atol=0)
    inverse = torch.linalg.inv(want)
    assert torch.allclose(hessian.inverse.double(), inverse, rtol=1e-4, atol=1e-7)
    upper = hessian.inverse_upper.double()
    assert torch.equal(upper, upper.triu())
    for j in (0, 5, 39):  # lower right corners give the inverses without the first columns
        corner = upper[j:, j:].T @ upper[j:, j:]
        rest = torch.linalg.inv(want[j:, j:])
        assert (corner - rest).abs().max() < 1e-5 * rest.abs().max()
    scale, values, vectors = (t.double() for t in hessian.scaled_eigen)
    rebuilt = (vectors * values) @ vectors.T * scale * scale[:, None]
    assert torch.allclose(rebuilt, want, rtol=1e-3, atol=1e-5 * unit)
    assert hessian.notes == ()
    assert hessian.damping == 0.05


def test_damping_is_relative_so_scale_does_not_matter(curvature):
    small, large = Hessian(curvature), Hessian(curvature * 1e6)
    assert torch.allclose(small.matrix * 1e6, large.matrix, rtol=1e-5)


def test_a_failed_factorisation_raises_the_damping_and_says_so():
    indefinite = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.02]))
    hessian = Hessian(indefinite, damping=0.01)
    assert hessian.damping == pytest.approx(0.1)
    assert hessian.notes == (
        "damping raised from 0.01 to 0.1 of the mean diagonal: the Cholesky factorisation failed",
    )


def test_no_damping_on_a_singular_matrix_is_raised_from_the_least():
    singular = torch.ones(3, 3)
    hessian = Hessian(singular - 1e-12 * torch.eye(3), damping=0.0)
    assert 0 < hessian.damping <= 1e-5
    assert "raised from 0 to" in hessian.notes[0]


def test_past_the_greatest_damping_the_layer_is_unsolvable():
    with pytest.raises(NumericalError, match=r"not positive definite \(column 2\).*damping of 1 "):
        Hessian(torch.diag(torch.tensor([1.0, -4.0, 1.0])))


def test_statistics_that_are_not_finite_are_refused(curvature):
    curvature[3, 4] = float("inf")
    with pytest.raises(NumericalError, match="nan or inf"):
        Hessian(curvature)


def test_a_layer_without_any_input_still_has_a_hessian():
    assert torch.equal(Hessian(torch.zeros(4, 4)).matrix, 0.01 * torch.eye(4))


@pytest.mark.parametrize("factor", ["inverse", "inverse_upper", "scaled_eigen"])
def test_a_matrix_is_factored_once_and_never_multiplied_out_again(curvature, factor):
    counted = operations(lambda: getattr(Hessian(curvature), factor))
    assert counted["linalg_cholesky_ex"] == 1
    assert counted["mm"] == counted["matmul"] == 0  # 40 inputs: nothing to be had by halves


@pytest.mark.parametrize("width", [1, 40, 193, 421, 800])
def test_a_triangle_s_inverse_by_halves_is_its_inverse(width):
    generator = torch.Generator().manual_seed(width)
    lower = torch.randn(width, width, generator=generator, dtype=torch.float64).tril() / width
    lower.diagonal().add_(1)
    for laid_out in (lower, lower.T.contiguous().T):
        inverse = inverse_of_lower(laid_out)
        assert torch.equal(inverse, inverse.tril())
        eye = torch.eye(width, dtype=torch.float64)
        assert torch.allclose(inverse @ lower, eye, rtol=0, atol=1e-13)


def test_the_column_that_is_not_positive_definite_is_named_from_the_front():
    with pytest.raises(NumericalError, match=r"\(column 1\)"):
        Hessian(torch.diag(torch.tensor([-4.0, 1.0, 1.0])))
