"""The driver: one interface for every search method, asked for genomes and told their values."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from optishear.search.curves import GeneCurve
from optishear.search.genes import Gene, cleaned


Genomes = Float[np.ndarray, "candidates genes"]
Values = tuple[float, ...] | None  # None: the candidate failed
GeneSlopes = Float[np.ndarray, " genes"] | None  # d objective / d code of each gene; None: failed


class Driver(ABC):
    """Numbers in, numbers out: a driver knows no recipes and no models.

    `ask` and `tell` alternate. One seed and the same tells give the same asks bit for bit, so a
    search is resumed by running it again and answering from the journal. Nothing global is read or
    changed: no random state, no warning filters, no logging levels.
    """

    @abstractmethod
    def ask(self) -> Genomes:
        """The next generation, inside the bounds and on the grid, one genome a row.

        Zero rows mean that this driver has nothing more to ask: the whole space, or all that it
        could reach, was asked for.
        """

    @abstractmethod
    def tell(self, values: Sequence[Values]) -> None:
        """What became of the genomes asked last, in their order.

        Every value is minimised here. `None` is a failed candidate; a driver must stay useful
        however many of them there are.
        """


class SlopeDriver(Driver):
    """One that goes by slopes: between `ask` and `tell` it is told those of what it asked for."""

    @abstractmethod
    def tell_slopes(self, slopes: Sequence[GeneSlopes]) -> None:
        """How fast the objective changes with each gene, for the genomes asked last."""


@dataclass(frozen=True, eq=False)
class DriverSettings:
    """What a driver is made from. The defaults are those of the NSGA papers.

    `population` is the size of the first generation of every driver. `initial` are genomes which
    open it, in their order (see `seeds`; under a budget `knapsack` asks its answer before them).
    `batch` is how many genomes a driver without generations asks for at a time afterwards; None is
    its own choice (one for TPE, `population` for the rest); drivers with generations ignore it.
    `mutation_prob` is per gene; None is one over the genes that can vary.

    What the space knows of its genes (`SearchSpace` has properties of these names):
    - `exchangeable`: for each gene the weights of which its code is a share that others can take
      over, 0 where they cannot; the same change of code is the same share in all of them.
    - `gene_blocks`: for each gene the first decoder block that it acts on.
    - `gene_sizes`: for each gene the weights whose share of a budget it asks for, else 0.

    What was measured of its layers alone, for drivers and variations that need it:
    - `curves`: for each gene what it can drop and what that costs (`curves.gene_curves`), None for
      genes that say no sparsity.
    - `budget`: weights that the genes with curves have to drop in all; None where the space has no
      budget.

    `variation`: `free`; `prefix`, where a child equals one of its parents in all that acts before
    some block, so that its forward pass can start there; or `guided`, where half of the children
    also move sparsity to where `curves` say that it costs less. Only drivers that cross genomes
    themselves have the latter two, which need `gene_blocks` and `curves`.
    """

    genes: tuple[Gene, ...]
    objectives: int
    population: int
    seed: int = 0
    initial: Float[np.ndarray, "seeds genes"] | None = None
    batch: int | None = None
    crossover_prob: float = 0.9
    crossover_eta: float = 15.0
    mutation_prob: float | None = None
    mutation_eta: float = 20.0
    exchangeable: tuple[int, ...] = ()
    gene_blocks: tuple[int, ...] | None = None
    gene_sizes: tuple[int, ...] | None = None
    curves: tuple[GeneCurve | None, ...] | None = None
    budget: int | None = None
    variation: Literal["free", "prefix", "guided"] = "free"

    @property
    def seeds(self) -> Genomes:
        """The initial genomes, cleaned, each once, no more than fit into the first population."""
        rows = [] if self.initial is None else self.initial
        distinct = {row.tobytes(): row for row in (cleaned(self.genes, row) + 0.0 for row in rows)}
        first = list(distinct.values())[: self.population]
        return np.array(first, dtype=np.float64).reshape(len(first), len(self.genes))


def checked(values: Sequence[Values], asked: int, objectives: int) -> list[Values]:
    """The same values; a plain `ValueError` (a bug of the caller) where they do not fit the ask."""
    if len(values) != asked:
        raise ValueError(f"{asked} genomes were asked for but {len(values)} values were told.")
    for index, value in enumerate(values):
        if value is None:
            continue
        if len(value) != objectives or not np.isfinite(value).all():
            raise ValueError(
                f"Candidate {index} was told {value!r}; a driver takes {objectives} finite "
                "numbers, or None for a candidate that failed."
            )
    return list(values)
