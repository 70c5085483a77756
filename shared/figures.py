"""One look for every figure of the course."""

from __future__ import annotations

import logging

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#2b6cb0",
    "#dd6b20",
    "#2f855a",
    "#c53030",
    "#6b46c1",
    "#718096",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)


def use_style() -> None:
    """Set the course's matplotlib style. Call once at the top of a notebook.

    Example:
        >>> use_style()
        >>> fig, ax = plt.subplots()
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    mpl.rcParams.update(
        {
            "figure.figsize": (7, 3.6),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10.5,
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "legend.frameon": False,
            "image.cmap": "Blues",
            "image.interpolation": "nearest",
        }
    )


def heatmap(
    ax: Axes,
    values,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    *,
    numbers: str | None = None,
    title: str = "",
    vmin: float | None = 0.0,
    vmax: float | None = None,
    cmap: str | None = None,
):
    """Draw a matrix with its row and column labels, and its numbers if a format is given.

    Shape:
        values: (rows, columns), a tensor or an array.

    Example:
        >>> heatmap(ax, weights, words, words, numbers=".2f", title="who looks at whom")
    """
    values = values.detach().cpu().float().numpy() if hasattr(values, "detach") else values
    image = ax.imshow(values, vmin=vmin, vmax=vmax, cmap=cmap, aspect="auto")
    ax.grid(False)
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if columns is not None:
        upright = max((len(c) for c in columns), default=0) > 3
        ax.set_xticks(range(len(columns)), columns, rotation=60 if upright else 0)
    if numbers is not None:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                # White on dark cells, black on light ones: read the colour actually drawn.
                r, g, b, _ = image.cmap(image.norm(value))
                dark = 0.299 * r + 0.587 * g + 0.114 * b < 0.55
                ax.text(
                    j,
                    i,
                    format(value, numbers),
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color="white" if dark else "black",
                )
    ax.set_title(title)
    return image


def show() -> None:
    """Show the current figure and close it, so that no cell ends in a figure's address."""
    if mpl.get_backend().lower() != "agg":  # which has no screen, and would warn
        plt.show()
    plt.close("all")
