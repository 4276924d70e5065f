"""Files of reliability curves: a table, and a picture by matplotlib, an extra."""

import io
from pathlib import Path

from segzoo.metrics.calibration import Curves
from segzoo.metrics.scatter import alike
from segzoo.metrics.score_file import write_image_scores
from segzoo.paths import write_whole


def write_curves(curves: Curves, table: Path) -> None:
    """Write the reliability of several images as a table, a row a bin."""
    write_image_scores(table, curves.rows())


def draw_curves(curves: Curves, picture: Path) -> None:
    """Draw the reliability of several images as a PNG file; needs matplotlib."""
    from matplotlib.figure import Figure

    contents = io.BytesIO()
    with alike():
        figure = Figure((4, 4), 120, layout="constrained")
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color="grey", linestyle=":")
        for label, curve, colour in (("all pixels", curves.everywhere, "C0"), ("near boundaries", curves.near, "C1")):
            some = curve.weights > 0
            points = curve.confidences[some] / curve.weights[some], curve.hits[some] / curve.weights[some]
            axes.plot(*points, color=colour, label=label, marker=".")
        axes.set(xlabel="probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False)
        figure.savefig(contents, format="png")
    write_whole(picture, contents.getvalue())
