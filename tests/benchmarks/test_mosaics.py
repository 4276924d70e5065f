"""benchmarks/mosaics.py: which images it takes for tiles of one picture."""

from dataclasses import replace

import mosaics
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from segzoo.data import DSB2018
from segzoo.data.samples import Sample, shipped_groups

SIDE = 48


def pictures(seed, *shape):
    """Smooth noise, whose neighbouring pixels are as like each other as those of cells."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return (128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


@pytest.fixture
def tiles(tmp_path):
    """Two by two tiles of one picture, two of another, and a flat one."""
    first, second = pictures(1, 2 * SIDE, 2 * SIDE), pictures(2, SIDE, 2 * SIDE)
    cut = {
        "a": first[:SIDE, :SIDE],
        "b": first[:SIDE, SIDE:],
        "c": first[SIDE:, :SIDE],
        "d": first[SIDE:, SIDE:],
        "e": second[:, :SIDE],
        "f": second[:, SIDE:],
        "flat": np.full((SIDE, SIDE), 90, np.uint8),
        "flat too": np.full((SIDE, SIDE), 90, np.uint8),
    }
    for name, pixels in cut.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return [Sample(name, tmp_path / f"{name}.png", (), name) for name in cut]


def test_tiles_are_found_by_their_borders(tiles):
    sides = mosaics.borders(tiles)
    beside = mosaics.neighbours(sides)
    names = [tile.id for tile in tiles]
    pairs = {frozenset((names[one], names[other])) for one, other in np.argwhere(beside)}
    assert pairs == set(map(frozenset, ("ab", "cd", "ac", "bd", "ef")))
    assert mosaics.mosaics(tiles, beside) == [["a", "b", "c", "d"], ["e", "f"]]
    assert mosaics.by_chance(sides) == 0


def test_test_images_that_another_part_continues_are_counted(tiles, monkeypatch):
    beside = mosaics.neighbours(mosaics.borders(tiles))
    parts = {"a": "test", "b": "train", "c": "test", "e": "test", "f": "test", "flat": "test"}
    monkeypatch.setattr(mosaics, "parts_of", lambda samples, fold: parts)
    assert mosaics.continued(tiles, beside, 0) == (1, 5)
    listed = [replace(tile, lookalikes="first" if tile.id in "abcd" else "") for tile in tiles]
    assert mosaics.continued(listed, beside, 0) == (0, 5)


def test_the_shipped_list_is_what_it_prints_and_one_pair_of_near_copies(shared):
    samples = DSB2018(shared / "data").samples()
    found = mosaics.mosaics(samples, mosaics.neighbours(mosaics.borders(samples)))
    printed, listed = {tile: tiles[0] for tiles in found for tile in tiles}, shipped_groups("dsb2018_lookalikes")
    assert printed.items() <= listed.items()
    assert len(listed) == len(printed) + 2
