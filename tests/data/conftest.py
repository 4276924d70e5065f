"""Small datasets made up on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw() -> Draw:
    """Write an RGB image (dark, with a bright rectangle) or, with ``mask=True``, the mask of the rectangle."""

    def write(path: Path, size: tuple[int, int] = (20, 30), *, mask: bool = False, high: int = 255) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros(size, np.uint8)
        pixels[2 : size[0] // 2, 3 : size[1] // 2] = high
        Image.fromarray(pixels if mask else np.repeat(pixels[..., None], 3, axis=2)).save(path)
        return path

    return write


@pytest.fixture
def folder_data(tmp_path: Path, draw: Draw) -> Path:
    """A binary `Folder` dataset of ten images."""
    for number in range(10):
        draw(tmp_path / "images" / f"{number}.png")
        draw(tmp_path / "masks" / f"{number}.png", mask=True)
    return tmp_path
