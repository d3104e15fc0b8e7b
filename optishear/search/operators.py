"""Typed sampling, crossover and mutation on flat float genomes, as pymoo operators.

Reals and integers get simulated binary crossover and polynomial mutation (Deb & Agrawal 1995, Deb &
Goyal 1996, in pymoo's `cross_sbx` and `mut_pm`), categories a uniform exchange and a uniform draw.
Importing this module imports pymoo; only `pymoo_driver` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm

from optishear.search.driver import DriverSettings, Genomes
from optishear.search.genes import Choice, Gene, Real
from optishear.search.guided_moves import Moves


EXCHANGE_PROB = 0.5  # of one gene, where two genomes mate at all
FROM_THE_START = 0.1  # of matings that keep no prefix, so that global genes still change
REACH = 0.5 - 1e-9  # integers mate and mutate in [low - 1/2, high + 1/2]: ends as likely as others


@dataclass(frozen=True, eq=False)
class GeneTable:
    """The genes as columns, so that whole generations are handled at once."""

    low: Float[np.ndarray, " genes"]
    high: Float[np.ndarray, " genes"]
    whole: Bool[np.ndarray, " genes"]
    category: Bool[np.ndarray, " genes"]

    @property
    def free(self) -> Bool[np.ndarray, " genes"]:
        """The genes which can take more than one value."""
        return self.high > self.low

    @property
    def reach(self) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
        """The bounds the real-valued operators work in, before rounding; fixed genes stay fixed."""
        wider = np.where(self.whole & self.free, REACH, 0.0)
        return self.low - wider, self.high + wider

    def clean(self, rows: Genomes) -> Genomes:
        """`genes.cleaned` for every row. Plus zero: -0.0 becomes 0.0, so equal means equal bits."""
        snapped = np.where(self.whole, np.rint(rows), rows)
        return np.clip(snapped, self.low, self.high) + 0.0


def gene_table(genes: Sequence[Gene]) -> GeneTable:
    return GeneTable(
        low=np.array([gene.low for gene in genes], dtype=np.float64),
        high=np.array([gene.high for gene in genes], dtype=np.float64),
        whole=np.array([not isinstance(gene, Real) for gene in genes], dtype=bool),
        category=np.array([isinstance(gene, Choice) for gene in genes], dtype=bool),
    )


def sampled(table: GeneTable, count: int, rng: np.random.Generator) -> Genomes:
    """`count` genomes, every gene uniform over its options, whole numbers or interval."""
    low, high = table.reach
    return table.clean(low + rng.random((count, len(low))) * (high - low))


def crossed(
    table: GeneTable,
    parents: Float[np.ndarray, "2 matings genes"],
    eta: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "2 matings genes"]:
    """Two children a mating: SBX for numbers, an even exchange for categories."""
    matings = parents.shape[1]
    low, high = table.reach
    children = cross_sbx(
        parents,
        low,
        high,
        eta=np.full((matings, 1), eta),
        prob_var=EXCHANGE_PROB,
        prob_bin=np.full((matings, 1), EXCHANGE_PROB),
        random_state=rng,
    )
    swap = rng.random(parents.shape[1:]) < EXCHANGE_PROB
    swapped = np.where(swap, parents[::-1], parents)
    children = np.where(table.category, swapped, children)
    return np.stack([table.clean(child) for child in children])


def mutated(
    table: GeneTable,
    rows: Genomes,
    prob: float | Float[np.ndarray, "candidates 1"],
    eta: float,
    rng: np.random.Generator,
) -> Genomes:
    """Each free gene changes with probability `prob`, and a whole number that changes does change.

    Polynomial mutation of a narrow integer nearly always rounds back to where it was; such a gene
    moves by one instead, to the side it was pushed (inwards at an end). A category becomes
    another one.
    """
    low, high = table.reach
    chosen = rng.random(rows.shape) < prob
    pushed = mut_pm(
        rows,
        low,
        high,
        eta=np.full(len(rows), eta),
        prob=np.ones(len(rows)),
        at_least_once=False,
        random_state=rng,
    )
    side = np.where(pushed < rows, -1.0, 1.0)
    side = np.where(rows <= table.low, 1.0, np.where(rows >= table.high, -1.0, side))
    stuck = table.whole & (table.clean(pushed) == rows)
    moved = np.where(stuck, rows + side, pushed)

    options = np.where(table.category, table.high + 1, 2).astype(np.int64)
    step = 1 + rng.integers(0, np.maximum(options - 1, 1), size=rows.shape)
    moved = np.where(table.category, (rows + step) % options, moved)
    return table.clean(np.where(chosen, moved, rows))


def drawn_cuts(
    blocks: Int[np.ndarray, " genes"], matings: int, rng: np.random.Generator
) -> Int[np.ndarray, "matings 1"]:
    """The block from which on a mating may change anything: 0, or any that has genes of its own."""
    later = np.setdiff1d(blocks, [0])
    if not len(later):
        return np.zeros((matings, 1), dtype=np.int64)
    from_the_start = rng.random((matings, 1)) < FROM_THE_START
    return np.where(from_the_start, 0, rng.choice(later, size=(matings, 1)))


def varied_from(
    cuts: Int[np.ndarray, "matings 1"],
    table: GeneTable,
    parents: Float[np.ndarray, "2 matings genes"],
    settings: DriverSettings,
    rng: np.random.Generator,
) -> Float[np.ndarray, "2 matings genes"]:
    """Two children a mating, each of which keeps its own parent's genes before the cut.

    From a cut at 0 they are `crossed`, from a later one they swap what acts there and after. Both
    are then `mutated` there: by default one gene a child on average, so that a late cut makes new
    children, too. With `gene_sizes` they are `rebalanced`.
    """
    open_ = np.array(settings.gene_blocks) >= cuts
    mates = rng.random(cuts.shape) < settings.crossover_prob
    blended = crossed(table, parents, settings.crossover_eta, rng)
    offered = np.where(cuts == 0, blended, parents[::-1])
    children = np.where(open_ & mates, offered, parents)

    prob = 1.0 / np.maximum((open_ & table.free).sum(axis=1, keepdims=True), 1)
    if settings.mutation_prob is not None:
        prob = np.full_like(prob, settings.mutation_prob)
    flat = parents.reshape(-1, parents.shape[-1])
    open_, prob = np.tile(open_, (2, 1)), np.tile(prob, (2, 1))
    rows = children.reshape(flat.shape)
    rows = np.where(open_, mutated(table, rows, prob, settings.mutation_eta, rng), rows)
    if settings.gene_sizes is not None:
        sizes = np.where(open_ & ~table.category, settings.gene_sizes, 0.0)
        rows = rebalanced(table, rows, (sizes * flat).sum(axis=1, keepdims=True), sizes)
    return rows.reshape(parents.shape)


def rebalanced(
    table: GeneTable,
    rows: Genomes,
    total: Float[np.ndarray, "candidates 1"],
    sizes: Float[np.ndarray, "candidates genes"],
) -> Genomes:
    """The same genomes, shifted by one constant each and clipped, so that sum(sizes x row) = total.

    Only genes with a size move, and `total` is one that they can reach. Under a budget all counts
    follow from the sum of the targets, so a child keeps those of its parent's first blocks only if
    it keeps the sum. Whole numbers are rounded such that the sum is missed by at most half a step
    of the last one.
    """
    moving, span = sizes > 0, float((table.high - table.low).max())
    slack = 1e-12 * sizes.sum(axis=1, keepdims=True) * max(span, 1.0)
    off = np.abs((sizes * rows).sum(axis=1, keepdims=True) - total) > slack
    below, above = np.full_like(total, -span), np.full_like(total, span)
    for _ in range(60):  # bisection on the shift; the sum grows with it
        middle = (below + above) / 2
        short = (sizes * np.clip(rows + middle, table.low, table.high)).sum(axis=1, keepdims=True)
        short = short <= total
        below, above = np.where(short, middle, below), np.where(short, above, middle)
    moved = np.where(moving & off, np.clip(rows + below, table.low, table.high), rows)
    owed = np.zeros(len(rows))  # what rounding took away so far
    for gene in np.flatnonzero(table.whole & moving.any(axis=0)):
        size = np.where(moving[:, gene], sizes[:, gene], np.inf)
        exact = moved[:, gene].copy()
        moved[:, gene] = np.clip(np.rint(exact + owed / size), table.low[gene], table.high[gene])
        owed += sizes[:, gene] * (exact - moved[:, gene])
    return table.clean(moved)


class TypedCrossover(Crossover):
    """`crossed` where pymoo looks for a crossover; it decides which pairs mate at all."""

    def __init__(self, table: GeneTable, prob: float, eta: float) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=prob)
        self.table, self.eta = table, eta

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        return crossed(self.table, X, self.eta, random_state)


class TypedMutation(Mutation):
    """`mutated` where pymoo looks for a mutation; `prob` None is one over the free genes."""

    def __init__(self, table: GeneTable, prob: float | None, eta: float) -> None:
        super().__init__(prob=1.0)
        self.table, self.eta = table, eta
        self.gene_prob = 1.0 / max(int(table.free.sum()), 1) if prob is None else prob

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        return mutated(self.table, X, self.gene_prob, self.eta, random_state)


class GuidedMutation(Mutation):
    """Another mutation, and then with probability 1/2 a child 1 to 3 exchanges guided by curves."""

    def __init__(self, mutation: TypedMutation, moves: Moves) -> None:
        super().__init__(prob=1.0)
        self.mutation, self.moves = mutation, moves

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        rows = self.mutation._do(problem, X, random_state=random_state)
        return self.mutation.table.clean(self.moves.guided(rows, random_state))


class PrefixVariation(Crossover):
    """`varied_from` a random cut, for a mating without any other mutation.

    A gene that acts on the whole model acts on block 0, so that only a cut at 0 changes it. One
    operator does both steps because pymoo's mutation is not told of the crossover's cut.
    """

    def __init__(self, table: GeneTable, settings: DriverSettings) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=1.0)  # `varied_from` says who mates
        self.table, self.settings = table, settings

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        cuts = drawn_cuts(np.array(self.settings.gene_blocks), X.shape[1], random_state)
        return varied_from(cuts, self.table, X, self.settings, random_state)
