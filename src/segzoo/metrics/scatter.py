"""Picture of points with error bars, one panel a group, on an x axis that all panels share.

matplotlib, which draws it, is an extra and slow to import, so that imports of it wait in functions.
"""

import math
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segzoo.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, WIDTH, PANEL_HEIGHT, LEGEND_ROW = 3, 10.2, 2.7, 0.2  # sizes in inches
LEGEND_COLUMNS, SIDE_BY_SIDE = 5, "points that would cover each other stand side by side"
MARKER_SIZE, GAP = 5.5, 7.0  # of a marker, and from its middle to the next one's: in points
BESIDE = 1.5  # how many times the largest x the axis reaches to, and the smallest one is what it starts from
ASIDE = 0.7  # how far that is where x is a number of the point
DPI, PAPER = 160, "white"

# told apart by most colour-blind readers too (Okabe and Ito's palette); with the shapes, 35 kinds of marker
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHAPES = "os^Dv"

# matplotlib's own style and the font that it brings, whatever the settings of the one who draws
SETTINGS = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.1,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "lines.markersize": MARKER_SIZE,
}


class Point(NamedTuple):
    """Value y with its interval at x > 0, of something that the legend names."""

    label: str
    x: float
    y: float
    low: float
    high: float
    hollow: bool = False


def require_matplotlib() -> None:
    """Refuse to draw where matplotlib is not installed.

    Raises:
        MissingPackageError: saying how to install it.
    """
    if find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib draws this, and is not installed; pip install 'medsegzoo[pictures]'")


def alike() -> AbstractContextManager[None]:
    """Draw in matplotlib's own style and ours, whatever the settings of the one who draws."""
    from matplotlib import style

    context: AbstractContextManager[None] = style.context(["default", SETTINGS])
    return context


def draw(panels: dict[str, list[Point]], x_title: str | None, y_title: str, hollow_means: str = "") -> "Figure":
    """Draw a panel for each group; a label has the same marker in all of them.

    Args:
        panels: title -> points.
        x_title: of a logarithmic axis; None where x says no more than which point stands where.
        y_title: of all panels.
        hollow_means: what the legend says of hollow markers, if there are any.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require_matplotlib()
    with alike():
        return drawn(panels, x_title, y_title, hollow_means)


def drawn(panels: dict[str, list[Point]], x_title: str | None, y_title: str, hollow_means: str) -> "Figure":
    """Return what `draw` draws, in the style that is set."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    everything = [point for points in panels.values() for point in points]
    labels = sorted({point.label for point in everything})
    markers = {label: marker(kind) for kind, label in enumerate(labels)}
    legend = [Line2D([], [], label=label, **markers[label]) for label in labels]
    if any(point.hollow for point in everything):
        legend.append(Line2D([], [], label=hollow_means, **hollow(marker(0))))
    columns, rows = min(COLUMNS, len(panels)), math.ceil(len(panels) / COLUMNS)
    height = rows * PANEL_HEIGHT + (1 + math.ceil(len(legend) / LEGEND_COLUMNS)) * LEGEND_ROW
    figure = Figure((WIDTH, height), DPI, facecolor=PAPER, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for axes, (title, points) in zip(grid, panels.items(), strict=False):
        axes.set(title=title, xlabel=x_title, ylabel=y_title)
        set_axes(axes, logarithmic=bool(x_title))
        draw_points(axes, points, markers)
    for axes in grid[len(panels) :]:
        axes.remove()
    first, last = (extreme(point.x for point in everything) for extreme in (min, max))
    figure.axes[0].set_xlim((first / BESIDE, last * BESIDE) if x_title else (first - ASIDE, last + ASIDE))
    figure.legend(
        handles=legend,
        title=SIDE_BY_SIDE if x_title else None,
        loc="outside lower center",
        ncols=LEGEND_COLUMNS,
        frameon=False,
    )
    figure.draw_without_rendering()  # lays out, so that it is known which points would cover each other
    figure.set_layout_engine("none")
    for axes in figure.axes:
        set_apart(axes)
    return figure


def write(figure: "Figure", path: Path, facts: dict[str, str]) -> None:
    """Write a PNG file that says certain facts, and not what wrote it."""
    with alike():
        figure.savefig(path, metadata={"Software": None, **facts}, pil_kwargs={"optimize": True})


def marker(kind: int) -> dict[str, Any]:
    """Describe the marker of a label, by its number."""
    return {"color": COLOURS[kind % len(COLOURS)], "marker": SHAPES[kind % len(SHAPES)], "linestyle": "none"}


def hollow(described: dict[str, Any]) -> dict[str, Any]:
    """Describe the same marker, hollow."""
    return {**described, "markerfacecolor": PAPER}


def set_axes(axes: "Axes", logarithmic: bool) -> None:
    """Give a panel its axes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log" if logarithmic else "linear")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if logarithmic else NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.2f}"))
    axes.tick_params(length=0, labelbottom=True)


def draw_points(axes: "Axes", points: list[Point], markers: dict[str, dict[str, Any]]) -> None:
    """Draw the points of one group."""
    for point in points:
        bar = [[point.y - point.low], [point.high - point.y]]
        kind = hollow(markers[point.label]) if point.hollow else markers[point.label]
        axes.errorbar([point.x], [point.y], bar, label=point.label, capsize=2.5, **kind)


def set_apart(axes: Any) -> None:
    """Move the points of a panel to the side, each as little as it takes for none to cover another one."""
    from matplotlib.transforms import ScaledTranslation
    from scipy.optimize import isotonic_regression  # which models do without

    inch = axes.figure.dpi_scale_trans
    places = np.array([bars.lines[0].get_xydata()[0] for bars in axes.containers])
    x = (axes.transData + inch.inverted()).transform(places)[:, 0]
    order, steps = np.argsort(x, kind="stable"), np.arange(len(x)) * GAP / 72
    moved = isotonic_regression(x[order] - steps).x + steps
    for index, shift in zip(order, moved - x[order], strict=True):
        for artist in axes.containers[index].get_children():
            artist.set_transform(axes.transData + ScaledTranslation(shift, 0, inch))
