"""Typed sampling, crossover and mutation on flat float genomes, as pymoo operators.

Reals and integers get simulated binary crossover and polynomial mutation (Deb & Agrawal 1995, Deb &
Goyal 1996, in pymoo's `cross_sbx` and `mut_pm`), categories a uniform exchange and a uniform draw.
Importing this module imports pymoo; only `pymoo_driver` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm

from optishear.search.driver import Genomes
from optishear.search.genes import Choice, Gene, Real


EXCHANGE_PROB = 0.5  # of one gene, where two genomes mate at all
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
    table: GeneTable, rows: Genomes, prob: float, eta: float, rng: np.random.Generator
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
