"""The profile figure: the pick's sparsity over depth, role by role."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from optishear.recipe.layout import ModelLayout
from optishear.report import style


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Grid = Float[np.ndarray, "roles blocks"]

ANNOTATED = 12  # blocks whose values still fit into the heat map as text
COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.RED, "#6B6B6B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


def profile_figure(
    layout: ModelLayout, drop: Mapping[str, int], title: str
) -> "matplotlib.figure.Figure":
    """Lines over blocks on the left, the same numbers as a map on the right."""
    names, (roles, mean) = short_names(layout.roles), sparsities(layout, drop)
    rows = -(-(len(names) + 2) // 5)
    figure = style.blank(title, style.FULL, max(2.5, 1.2 + 0.2 * len(names)) + 0.16 * rows)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _lines(left, names, roles, mean, layout.sparsity(drop))
    heat_map(figure, right, names, roles)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=style.columns(labels, style.FULL - 0.2)
    )
    style.settle(figure)
    return figure


def sparsities(layout: ModelLayout, drop: Mapping[str, int]) -> tuple[Grid, np.ndarray]:
    """Sparsity of each role in each block and of each block, both weighted by size. NaN where a
    block has no such role; experts of one role count together."""
    dropped, size = np.zeros((2, len(layout.roles), layout.blocks))
    for layer in layout.layers:
        place = layout.roles.index(layer.role), layer.block
        dropped[place] += drop[layer.name]
        size[place] += layer.size
    nowhere = np.where(size > 0, 1.0, np.nan)
    total = size.sum(axis=0)
    mean = dropped.sum(axis=0) / np.where(total > 0, total, np.nan)
    return dropped / np.maximum(size, 1.0) * nowhere, mean


def short_names(roles: Sequence[str]) -> tuple[str, ...]:
    """The fewest last parts of each path that tell all roles apart: `self_attn.q_proj`, q_proj."""
    parts = [role.split(".") for role in roles]
    names = []
    for own in parts:
        length = next(
            (n for n in range(1, len(own)) if sum(o[-n:] == own[-n:] for o in parts) == 1), len(own)
        )
        names.append(".".join(own[-length:]))
    return tuple(names)


def _lines(
    axes: "matplotlib.axes.Axes",
    names: Sequence[str],
    roles: Grid,
    mean: Float[np.ndarray, " blocks"],
    overall: float,
) -> None:
    from matplotlib.ticker import MaxNLocator

    blocks = np.arange(len(mean))
    every = -(-len(blocks) // 16)  # at most so many markers a line
    for index, (name, row) in enumerate(zip(names, roles * 100, strict=True)):
        axes.plot(
            blocks, row, marker=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)],
            linestyle=("-", (0, (4, 1.5)), ":")[index // len(COLOURS) % 3],
            linewidth=0.8 if every == 1 else 0.5, markersize=3.6, markeredgewidth=0,
            label=style.plain(name), markevery=(index % every, every),
        )  # fmt: skip
    axes.plot(
        blocks, 100 * mean, color=style.BLACK, linewidth=2.2, label="block mean", zorder=4,
        marker="_" if len(blocks) == 1 else "", markersize=14, markeredgewidth=2.2,
    )  # fmt: skip
    axes.axhline(
        100 * overall, color=style.BLACK, linestyle="--", linewidth=0.9, zorder=3,
        label=f"all weights: {100 * overall:.1f} %",
    )  # fmt: skip
    low, high = np.nanmin(roles), np.nanmax(roles)
    margin = max(5 * (high - low), 1.0)  # 5 % of the range, and never a range of nothing
    axes.set_ylim(100 * low - margin, 100 * high + margin)
    axes.set_xlim(-0.5, len(blocks) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.set(xlabel="block", ylabel="sparsity (%)")


def heat_map(
    figure: "matplotlib.figure.Figure",
    axes: "matplotlib.axes.Axes",
    names: Sequence[str],
    roles: Grid,
    annotated: int = ANNOTATED,
    label: str = "sparsity (%)",
) -> None:
    """Fractions of roles over blocks in per cent, as text too if there are few enough blocks."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    blocks = roles.shape[1]
    middle, reach = (np.nanmax(roles) + np.nanmin(roles)) / 2, np.ptp(roles[np.isfinite(roles)]) / 2
    reach = max(reach, 0.05)  # a hair's breadth of difference is not the whole scale
    colours = colormaps["cividis"].with_extremes(bad="#DDDDDD")
    image = axes.imshow(
        100 * roles, cmap=colours, aspect="auto", interpolation="nearest",
        vmin=100 * (middle - reach), vmax=100 * (middle + reach),
    )  # fmt: skip
    axes.grid(visible=False)
    axes.set_yticks(range(len(names)), [style.plain(name) for name in names])
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("block")
    if blocks > annotated:
        bar = figure.colorbar(image, ax=axes, label=label, pad=0.02, aspect=25)
        bar.outline.set_visible(False)
        return
    digits = 1 if blocks <= 6 else 0
    for (role, block), value in np.ndenumerate(roles):
        dark = value < middle
        axes.text(
            block, role, f"{100 * value:.{digits}f}" if np.isfinite(value) else "–",
            ha="center", va="center", fontsize=6.5, color="white" if dark else "black",
        )  # fmt: skip
