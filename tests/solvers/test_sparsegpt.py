import pytest
import torch
from problems import ROWS, WIDTH, SmallLayer, operations

from optishear.calibration.statistics import Gram, InputSq
from optishear.errors import NumericalError
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.sparsegpt import SparseGPT


SIZE = ROWS * WIDTH


def slow_obs(layer, quadratic, drop, pattern):
    """Optimal brain surgeon from left to right, each inverse computed anew in fp64."""
    weight = layer.weight.double().clone()
    weight[:, layer.stats[InputSq].total == 0] = 0
    hessians = layer.row_hessians(quadratic)
    rows, width = weight.shape
    keep = torch.ones(rows, width, dtype=torch.bool)

    def first(row, j):
        return torch.linalg.inv(hessians[row][j:, j:])[0]

    def saliency(row, j):
        """As if all columns before j were gone."""
        return (weight[row, j] ** 2 / first(row, j)[0]).item()

    def strike(cells, count):
        for row, j in sorted(cells, key=lambda c: saliency(*c))[:count]:
            keep[row, j] = False

    settled = {}
    if isinstance(pattern, (Row, WholeLayer)):
        everywhere = [[(i, j) for j in range(width)] for i in range(rows)]
        if isinstance(pattern, Row):
            for i, cells in enumerate(everywhere):
                strike(cells, drop // rows + (i < drop % rows))
        else:
            strike([cell for row in everywhere for cell in row], drop)
        settled = {"gone": ~keep.clone()}
        keep[:] = True
    block = pattern.columns if isinstance(pattern, Block) else 128
    for j in range(width):
        if isinstance(pattern, NofM):
            if j % pattern.m == 0:
                for i in range(rows):
                    group = [(i, k) for k in range(j, j + pattern.m)]
                    strike(group, drop // (rows * width // pattern.m))
        elif j % block == 0:
            ahead = range(j, min(j + block, width))
            cells = [[(i, k) for k in ahead] for i in range(rows)]
            whole = [cell for row in cells for cell in row]
            if isinstance(pattern, Row):
                for i in range(rows):
                    strike(cells[i], int(settled["gone"][i, list(ahead)].sum()))
            elif isinstance(pattern, WholeLayer):
                strike(whole, int(settled["gone"][:, list(ahead)].sum()))
            else:
                strike(whole, pattern.cuts((rows, width), drop)[j // block].count)
        for i in range(rows):
            if not keep[i, j]:
                line = first(i, j)
                weight[i, j:] -= weight[i, j] / line[0] * line
                weight[i, j] = 0
    return weight, keep


@pytest.mark.parametrize("kind", ["plain", "rank_deficient", "dead_inputs"])
@pytest.mark.parametrize("lam", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("pattern", [Block(16), NofM(4), Row(), WholeLayer()], ids=lambda p: p.text)
def test_choices_and_updates_are_those_of_slow_obs(kind, lam, pattern):
    layer = SmallLayer(kind)
    problem = layer.problem(SIZE // 2, pattern, lam)
    weight, keep = slow_obs(layer, problem.quadratic, SIZE // 2, pattern)
    found = SparseGPT().solve(problem)
    assert torch.equal(found.keep, keep)
    assert torch.allclose(found.weight.double(), weight, atol=2e-3 * weight.abs().max().item())


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_blocks_that_do_not_divide_the_width_are_fine(lam):
    layer = SmallLayer(width=37)
    drop = ROWS * 37 // 2
    problem = layer.problem(drop, Block(16), lam)
    weight, keep = slow_obs(layer, problem.quadratic, drop, Block(16))
    found = SparseGPT().solve(problem)
    assert torch.equal(found.keep, keep)
    assert torch.allclose(found.weight.double(), weight, atol=1e-3)


def test_lazy_updates_past_a_block_change_nothing():
    """More than two blocks of 128, so that what is passed on has to arrive at the right columns."""
    layer = SmallLayer(rows=3, width=300, tokens=900)
    problem = layer.problem(450, Row(), 0.5)
    weight, keep = slow_obs(layer, problem.quadratic, 450, Row())
    found = SparseGPT().solve(problem)
    assert torch.equal(found.keep, keep)
    assert torch.allclose(found.weight.double(), weight, atol=2e-3 * weight.abs().max().item())


def test_as_published_up_to_exact_counts():
    """Their loop: upper Cholesky factor of the inverse, a threshold a block, error passed on."""
    layer = SmallLayer(width=160, tokens=500)
    rows, width, sparsity = ROWS, 160, 0.6
    h = layer.stats[Gram].total.double() / layer.stats.tokens
    h += 0.01 * h.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    w = layer.weight.double().clone()
    for start in range(0, width, 128):
        end = min(start + 128, width)
        scores = w[:, start:end] ** 2 / u.diagonal()[start:end] ** 2
        threshold = scores.flatten().sort()[0][int(scores.numel() * sparsity)]
        gone = scores < threshold
        errors = torch.zeros_like(scores)
        for i in range(end - start):
            j = start + i
            value = torch.where(gone[:, i], 0.0, w[:, j])
            errors[:, i] = (w[:, j] - value) / u[j, j]
            w[:, j:end] -= errors[:, i, None] * u[j, j:end]
            w[:, j] = value
        w[:, end:] -= errors @ u[start:end, end:]
    drop = sum(int(rows * n * sparsity) for n in (128, 32))
    found = SparseGPT().solve(layer.problem(drop, Block(128)))
    assert torch.equal(found.weight == 0, w == 0)
    assert torch.allclose(found.weight.double(), w, atol=1e-4)


def test_weights_of_dead_inputs_go_to_zero():
    layer = SmallLayer("dead_inputs")
    found = SparseGPT().solve(layer.problem(0))
    assert (found.weight[:, [0, 7, WIDTH - 1]] == 0).all()
    alive = [j for j in range(WIDTH) if j not in (0, 7, WIDTH - 1)]
    assert torch.equal(found.weight[:, alive], layer.weight[:, alive])


@pytest.mark.parametrize("m", [3, 4, 20, 30, 144])
def test_groups_of_any_size_are_chosen_as_published(m):
    """Smaller than a run of columns, longer than one, longer than a block; over several blocks."""
    layer = SmallLayer(width=720 if m == 144 else 240, tokens=900)
    rows, width = layer.weight.shape
    each = m // 2
    h = layer.quadratic().shared.matrix.double()
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    w = layer.weight.double().clone()
    keep = torch.ones(rows, width, dtype=torch.bool)
    for j in range(width):
        if j % m == 0:
            scores = (w[:, j : j + m] / u.diagonal()[j : j + m]).square()
            keep[:, j : j + m].scatter_(1, scores.argsort(1)[:, :each], False)
        error = torch.where(keep[:, j], 0.0, w[:, j] / u[j, j])
        w[:, j:] -= error[:, None] * u[j, j:]
    found = SparseGPT().solve(layer.problem(rows * width * each // m, NofM(m)))
    assert torch.equal(found.keep, keep)
    assert torch.allclose(found.weight.double(), w * keep, atol=1e-4 * w.abs().max().item())
    assert found.weight.is_contiguous()
    assert found.keep.is_contiguous()


def test_of_equal_scores_in_a_group_the_first_goes():
    layer = SmallLayer()
    layer.weight[:] = 0
    found = SparseGPT().solve(layer.problem(SIZE // 2, NofM(4)))
    assert torch.equal(
        found.keep, torch.tensor([False, False, True, True]).repeat(ROWS, WIDTH // 4)
    )


@pytest.mark.parametrize("pattern", [NofM(4), NofM(40), Block(16)], ids=lambda p: p.text)
def test_scores_that_are_not_finite_are_refused(pattern):
    layer = SmallLayer()
    layer.weight[3, 5] = 1e30  # its square is none of fp32
    with pytest.raises(NumericalError, match=r"1 of \d+ scores are nan or inf"):
        SparseGPT().solve(layer.problem(SIZE // 2, pattern))


@pytest.mark.parametrize(
    ("pattern", "lam", "most"), [(Block(128), 1, 3), (NofM(4), 1, 5), (NofM(4), 0.5, 22)]
)
def test_a_column_takes_few_operations(pattern, lam, most):
    """On a CPU their number decides: layers of a block's columns are small for it."""
    layer = SmallLayer(width=256, tokens=500)
    problem = layer.problem(ROWS * 128, pattern, lam)
    _ = problem.quadratic.shared.inverse_upper
    counted = operations(lambda: SparseGPT().solve(problem))
    assert sum(counted.values()) <= most * 256
