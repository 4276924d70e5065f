"""A picture of points with error bars, one panel a group, on a logarithmic x axis; drawn with Pillow alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 340, 270, 3
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 44, 46  # from a panel's sides to its frame
LEGEND_COLUMN, LEGEND_ROW, MARGIN = 170, 22, 12
MARKER, CAP, FONT = 6, 4, 13
SCALE, OVERSAMPLING = 2, 2  # pixels of the picture to a unit above; drawn larger and reduced, for smooth edges
INK, GRID, PAPER = "#333333", "#e4e4e4", "#ffffff"

# told apart by most colour-blind readers too (Okabe and Ito's palette); with the shapes, 35 kinds of marker
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHAPES: tuple[tuple[tuple[float, float], ...] | None, ...] = (
    None,  # a disc
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    ((0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
)


class Point(NamedTuple):
    """A value y with its interval at x > 0, of something that the legend names."""

    label: str
    x: float
    y: float
    low: float
    high: float
    hollow: bool = False


class Frame(NamedTuple):
    """A rectangle, where in it values lie, and its ticks."""

    left: float
    top: float
    right: float
    bottom: float
    x: Callable[[float], float]
    y: Callable[[float], float]
    x_ticks: list[float]
    y_ticks: list[float]


def draw(panels: dict[str, list[Point]], x_title: str, y_title: str, hollow_means: str) -> Image.Image:
    """The picture; a label has the same marker in every panel."""
    labels = sorted({point.label for points in panels.values() for point in points})
    entries = [(label, kind, False) for kind, label in enumerate(labels)]
    if any(point.hollow for points in panels.values() for point in points):
        entries.append((hollow_means, 0, True))
    columns, rows = min(COLUMNS, len(panels)), math.ceil(len(panels) / COLUMNS)
    width = columns * PANEL_WIDTH + 2 * MARGIN
    across = max(1, (width - LEFT) // LEGEND_COLUMN)
    height = rows * PANEL_HEIGHT + math.ceil(len(entries) / across) * LEGEND_ROW + 2 * MARGIN
    pen = Pen(width, height)
    for number, (title, points) in enumerate(panels.items()):
        corner = MARGIN + number % COLUMNS * PANEL_WIDTH, MARGIN + number // COLUMNS * PANEL_HEIGHT
        draw_panel(pen, corner, title, points, labels, x_title, y_title)
    for number, (label, kind, hollow) in enumerate(entries):
        x = MARGIN + LEFT + number % across * LEGEND_COLUMN
        y = MARGIN + rows * PANEL_HEIGHT + (number // across + 0.5) * LEGEND_ROW
        pen.marker(x, y, kind, hollow)
        pen.text(x + 2 * MARKER, y, label, "lm")
    return pen.picture()


def draw_panel(
    pen: "Pen",
    corner: tuple[float, float],
    title: str,
    points: list[Point],
    labels: list[str],
    x_title: str,
    y_title: str,
) -> None:
    """Axes, then bars, then markers, so that no bar hides a marker."""
    frame = frame_of(corner, points)
    pen.text((frame.left + frame.right) / 2, corner[1] + 12, title, "mm", bold=True)
    pen.text(frame.left, frame.top - 5, y_title, "lb")
    pen.text((frame.left + frame.right) / 2, frame.bottom + 22, x_title, "mt")
    for tick in frame.x_ticks:
        x = frame.x(tick)
        pen.line((x, frame.top), (x, frame.bottom), GRID)
        pen.text(x, frame.bottom + 5, f"{tick:g}", "mt")
    for tick in frame.y_ticks:
        y = frame.y(tick)
        pen.line((frame.left, y), (frame.right, y), GRID)
        pen.text(frame.left - 5, y, f"{tick:.2f}", "rm")
    pen.box(frame)
    for point in points:
        x, colour = place(frame, point), COLOURS[labels.index(point.label) % len(COLOURS)]
        pen.line((x, frame.y(point.low)), (x, frame.y(point.high)), colour, 1.5)
        for end in (point.low, point.high):
            pen.line((x - CAP, frame.y(end)), (x + CAP, frame.y(end)), colour, 1.5)
    for point in points:
        pen.marker(place(frame, point), frame.y(point.y), labels.index(point.label), point.hollow)


def place(frame: Frame, point: Point) -> float:
    """Where a point is along x; a hollow one to the right, since a full one often has the same x."""
    return frame.x(point.x) + (2 * MARKER if point.hollow else 0)


# ---- axes


def frame_of(corner: tuple[float, float], points: list[Point]) -> Frame:
    """Where a panel at this corner has its frame, wide enough for all of its points."""
    left, right = corner[0] + LEFT, corner[0] + PANEL_WIDTH - RIGHT
    top, bottom = corner[1] + TOP, corner[1] + PANEL_HEIGHT - BOTTOM
    low_x, high_x = min(point.x for point in points) / 2, 2 * max(point.x for point in points)
    y_ticks = ticks(min(point.low for point in points), max(point.high for point in points))

    def x(value: float) -> float:
        return left + (right - left) * math.log(value / low_x) / math.log(high_x / low_x)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    return Frame(left, top, right, bottom, x, y, log_ticks(low_x, high_x), y_ticks)


def ticks(low: float, high: float) -> list[float]:
    """Round values from below a range of shares of 1 to above it, some seven of them."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 6 or step == 0.2)
    return [number * step for number in range(math.ceil(low / step) - 1, math.floor(high / step) + 2)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... in a range, or in a wide one 1, 3, 10, ..."""
    digits = (1, 2, 5) if high / low < 50 else (1, 3)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]


# ---- the pen


class Pen:
    """Draws in units, on a picture of more pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.unit = SCALE * OVERSAMPLING
        self.image = Image.new("RGB", (round(width * self.unit), round(height * self.unit)), PAPER)
        self.drawing = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(FONT * self.unit)

    def picture(self) -> Image.Image:
        """What was drawn."""
        return self.image.reduce(OVERSAMPLING)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 1) -> None:
        """A straight line."""
        self.drawing.line(self.pixels(start, end), colour, round(width * self.unit))

    def box(self, frame: Frame) -> None:
        """The axes."""
        corners = self.pixels((frame.left, frame.top), (frame.right, frame.bottom))
        self.drawing.rectangle(corners, outline=INK, width=self.unit)

    def text(self, x: float, y: float, words: str, anchor: str, bold: bool = False) -> None:
        """Words, with the point at the anchor that Pillow calls so."""
        self.drawing.text(self.pixels((x, y))[0], words, INK, self.font, anchor, stroke_width=1 if bold else 0)

    def marker(self, x: float, y: float, kind: int, hollow: bool) -> None:
        """The marker of a label, by its number."""
        colour, shape = COLOURS[kind % len(COLOURS)], SHAPES[kind % len(SHAPES)]
        fill = PAPER if hollow else colour
        if shape is None:
            corners = self.pixels((x - MARKER, y - MARKER), (x + MARKER, y + MARKER))
            self.drawing.ellipse(corners, fill, colour, 2 * self.unit)
        else:
            outline = self.pixels(*((x + MARKER * a, y + MARKER * b) for a, b in shape))
            self.drawing.polygon(outline, fill, colour, 2 * self.unit)

    def pixels(self, *places: tuple[float, float]) -> list[tuple[int, int]]:
        """Places in whole pixels, where every machine rounds alike."""
        return [(round(x * self.unit), round(y * self.unit)) for x, y in places]
