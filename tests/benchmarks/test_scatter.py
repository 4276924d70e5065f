"""Picture of points with intervals: what the picture shows, where, and that it can be read."""

import itertools

import matplotlib
import numpy as np
import pytest
import quality
from matplotlib.colors import same_color
from PIL import Image
from test_quality import STORED

from segzoo.metrics.scatter import GAP, Point, draw, write

pytestmark = pytest.mark.filterwarnings("error")  # as where a layout has no place for something
PANELS = {
    "polyps": [
        Point("small", 17.0, 0.8, 0.7, 0.85),
        Point("small", 17.0, 0.7, 0.6, 0.8, hollow=True),
        Point("large", 16.5, 0.75, 0.6, 0.8),
        Point("large", 200.0, 0.9, 0.85, 0.92),
    ],
    "nuclei": [Point("large", 30.0, 0.91, 0.9, 0.93)],
    "skin": [Point("middle", 60.0, 0.91, 0.9, 0.93)],
    "breast": [Point("middle", 70.0, 0.5, 0.4, 0.55)],
}


@pytest.fixture(scope="module")
def figure():
    return draw(PANELS, "milliseconds", "Dice", "hollow: elsewhere")


@pytest.fixture(scope="module")
def stored():
    return draw(quality.panels(quality.read_results(STORED)), "CPU latency, ms", "Dice", "hollow: elsewhere")


def pixels(bars):
    """Where a point's marker is drawn."""
    marker = bars.lines[0]
    return marker.get_transform().transform(marker.get_xydata())[0]


def test_every_panel_shows_its_points_and_their_intervals(figure):
    assert [axes.get_title() for axes in figure.axes] == list(PANELS)
    for axes, points in zip(figure.axes, PANELS.values(), strict=True):
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("milliseconds", "Dice", "log")
        assert axes.get_xlim() == figure.axes[0].get_xlim()
        for bars, point in zip(axes.containers, points, strict=True):
            marker, _, (interval,) = bars.lines
            assert bars.get_label() == point.label
            np.testing.assert_allclose(marker.get_xydata(), [(point.x, point.y)])
            np.testing.assert_allclose(interval.get_segments()[0], [(point.x, point.low), (point.x, point.high)])
            assert same_color(marker.get_markerfacecolor(), "white") == point.hollow
            assert axes.bbox.contains(*pixels(bars))


def test_a_label_has_one_marker_that_the_legend_explains(figure):
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["large", "middle", "small", "hollow: elsewhere"]
    *named, _ = [(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles]
    assert len(set(named)) == 3
    markers = dict(zip(("large", "middle", "small"), named, strict=True))
    for bars in itertools.chain.from_iterable(axes.containers for axes in figure.axes):
        assert (bars.lines[0].get_color(), bars.lines[0].get_marker()) == markers[bars.get_label()]
    without = draw({"nuclei": PANELS["nuclei"]}, "milliseconds", "Dice", "hollow: elsewhere")
    assert [text.get_text() for text in without.legends[0].get_texts()] == ["large"]


def test_only_points_that_would_cover_each_other_are_moved(figure):
    axes = figure.axes[0]
    drawn = [pixels(bars)[0] for bars in axes.containers]
    place = [axes.transData.transform((point.x, point.y))[0] for point in PANELS["polyps"]]
    gap = GAP / 72 * figure.dpi
    assert drawn[3] == pytest.approx(place[3])
    assert np.diff([drawn[2], drawn[0], drawn[1]]) == pytest.approx([gap, gap])
    assert np.mean(drawn[:3]) == pytest.approx(np.mean(place[:3]))


@pytest.mark.parametrize("name", ["figure", "stored"])
def test_no_words_and_no_points_cover_others(name, request):
    figure = request.getfixturevalue(name)
    words = [*figure.legends[0].get_texts(), figure.legends[0].get_title()]
    for axes in figure.axes:
        words += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            words += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        for one, other in itertools.combinations(map(pixels, axes.containers), 2):
            assert abs(one[0] - other[0]) > 0.99 * GAP / 72 * figure.dpi
    boxes = {text: text.get_window_extent() for text in words}
    assert all(
        box.width > 0 and figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max) for box in boxes.values()
    )
    for one, other in itertools.combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one.get_text(), other.get_text())


def test_the_file_is_the_same_again_whatever_the_settings_of_the_one_who_draws(figure, tmp_path):
    write(figure, tmp_path / "first.png", {"shows": "this"})
    with matplotlib.rc_context({"font.size": 30, "lines.markersize": 30, "savefig.dpi": 20, "axes.facecolor": "red"}):
        write(draw(PANELS, "milliseconds", "Dice", "hollow: elsewhere"), tmp_path / "second.png", {"shows": "this"})
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert Image.open(tmp_path / "first.png").text == {"shows": "this"}
