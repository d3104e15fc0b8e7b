"""The figures of the pages in results/, drawn from the files in results/ alone.

    python experiments/benchmarks/question_figures.py            # all, into results/figures
    python experiments/benchmarks/question_figures.py objective  # one of them

Nothing is measured here.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from figure_marks import RESULTS
from figures_of_runs import layers, metric, parts
from figures_of_tables import blend, calibration, joint, objective, transfer
from help_text import first_line

from optishear.report import style


FIGURES: Mapping[str, Callable[[], Any]] = {
    "metric": metric,
    "layers": layers,
    "blend": blend,
    "parts": parts,
    "joint": joint,
    "objective": objective,
    "transfer": transfer,
    "calibration": calibration,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; none: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "figures")
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*FIGURES}):
        parser.error(f"no figure is called {unknown[0]!r}; there are: {', '.join(FIGURES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    with style.paper_style():
        for name in given.names or FIGURES:
            print(*style.save(FIGURES[name](), given.out / name, kinds=("svg",)))


if __name__ == "__main__":
    main()
