"""Parts of a pandas table, each with the one type that it has: `table[…]` alone may be anything."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float


def where(table: pd.DataFrame, which: Any) -> pd.DataFrame:
    """The rows of which `which` is true."""
    return pd.DataFrame(table[which])


def groups(table: pd.DataFrame, by: str, sort: bool = True) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(value, rows) for each value of a column, in their order or as they first come."""
    for value, rows in table.groupby(by, sort=sort):
        yield value, pd.DataFrame(rows)


def numbers(table: pd.DataFrame, column: str) -> Float[np.ndarray, " rows"]:
    """The numbers of a column, without what is missing."""
    return table[column].dropna().to_numpy(float)
