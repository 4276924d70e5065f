"""Cost of the page in Chromium, beside ONNX Runtime in Python, and the bytes of a first visit.

    make site
    python benchmarks/web.py [--model lv-unet-busi]

Writes the tables of docs/web.md. Needs `medsegzoo[onnx]`, Node.js and Chromium (or another one where CHROMIUM says).
Times are by the clock, so that nothing else should run. The camera is a file of frames at the network's size, made of
the first image of tests/samples/BUSI, which moves by a pixel a frame.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from measuring import machine
from PIL import Image

from segzoo.cli.web import HOST, TYPES, Handler, Server
from segzoo.prediction.runtimes import open_session

REPOSITORY = Path(__file__).parents[1]
SITE = REPOSITORY / "web" / "site"
SCRIPT = REPOSITORY / "web" / "benchmarks" / "measure.mjs"
PAGE = REPOSITORY / "docs" / "web.md"
IMAGE = REPOSITORY / "tests/samples/BUSI/Dataset_BUSI_with_GT/benign/benign (9).png"
BEGIN, END = "<!-- written by benchmarks/web.py -->", "<!-- until here -->"
FRAMES = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lv-unet-busi")
    options = parser.parse_args()
    listed = json.loads((SITE / "models" / "models.json").read_text(encoding="utf-8"))["models"]
    model = next(one for one in listed if one["name"] == options.model)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(model)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def tables(model: dict[str, Any]) -> str:
    """Return what was measured, in words and tables."""
    height, width = model["size"]
    moving = frames(height, width)
    asked: list[str] = []
    with tempfile.TemporaryDirectory() as folder, served(Handler, asked) as isolated, served(Plain, []) as plain:
        camera = Path(folder) / "camera.y4m"
        camera.write_bytes(y4m(moving))
        python = python_times(SITE / "models" / model["file"], moving)
        found = node("page", isolated, plain, model["name"], IMAGE, camera)
        python += python_times(SITE / "models" / model["file"], moving)
    first = [one["milliseconds"] / 1000 for one in found["first"]]
    rate = statistics.median(one["rate"] for one in found["live"]["rates"])
    took = statistics.median(one["milliseconds"] for one in found["live"]["rates"])
    bare = statistics.median(python)
    processor = machine()["processor"]
    return f"""\
Measured with `{model["name"]}` on {processor}, in Chromium {found["chromium"]}, beside ONNX Runtime
{version("onnxruntime")} for Python in the same run.

| from an empty cache to the first mask | seconds |
| --- | ---: |
| median of {len(first)} ({found["first"][0]["runtime"]}) | {statistics.median(first):.2f} |
| slowest | {max(first):.2f} |

| live at {height} x {width}, one thread | milliseconds a frame | frames a second |
| --- | ---: | ---: |
| the page ({found["live"]["runtime"]}) | {took:.0f} | {rate:.1f} |
| ONNX Runtime in Python, the network alone | {bare:.0f} | {1000 / bare:.1f} |

{weights(asked)}"""


def weights(asked: list[str]) -> str:
    """Return a table of the bytes that a first visit loads."""
    paths = sorted({path.partition("?")[0].lstrip("/") or "index.html" for path in asked})
    loaded = [path for path in paths if not path.endswith(".onnx") and (SITE / path).is_file()]
    sizes = node("bytes", *(SITE / path for path in loaded))
    runtime = [size for path, size in zip(loaded, sizes, strict=True) if path.endswith(".wasm")]
    rows = [
        f"| {what} | "
        + " | ".join(f"{sum(one[kind] for one in some) / 1e6:.2f}" for kind in ("plain", "gzip", "brotli"))
        for what, some in ((f"all {len(loaded)} files", sizes), ("of them WebAssembly", runtime))
    ]
    head = ["| a first visit without the model, in MB | as they are | gzip | brotli |", "| --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *(f"{row} |" for row in rows)]) + "\n"


# ---- what is measured


def frames(height: int, width: int) -> list[np.ndarray[Any, Any]]:
    """Return pictures [H, W, 3] that move."""
    picture = np.asarray(Image.open(IMAGE).convert("RGB").resize((width, height)))
    return [np.roll(picture, number, axis=1) for number in range(FRAMES)]


def y4m(pictures: list[np.ndarray[Any, Any]]) -> bytes:
    """Return them as a file that Chromium takes for a camera, 30 a second: YUV, with half the colours."""
    height, width = pictures[0].shape[:2]
    parts = [f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode()]
    for picture in pictures:
        luma, blue, red = np.moveaxis(np.asarray(Image.fromarray(picture).convert("YCbCr")), 2, 0)
        parts += [b"FRAME\n", luma.tobytes(), blue[::2, ::2].tobytes(), red[::2, ::2].tobytes()]
    return b"".join(parts)


def python_times(file: Path, pictures: list[np.ndarray[Any, Any]]) -> list[float]:
    """Return the milliseconds of each frame by ONNX Runtime in Python, in one thread."""
    session, found = open_session(file, 1), []
    for picture in pictures:
        image = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
        start = time.perf_counter()
        session.run(["probabilities"], {"image": image})
        found.append(1000 * (time.perf_counter() - start))
    return found[5:]


def node(*arguments: object) -> Any:
    """Run the script of the page."""
    command = ["node", str(SCRIPT), *map(str, arguments)]
    return json.loads(subprocess.run(command, cwd=SCRIPT.parent, check=True, stdout=subprocess.PIPE, text=True).stdout)


class Plain(SimpleHTTPRequestHandler):
    """Host that sends no headers of its own, so that the page is in one thread."""

    extensions_map = TYPES

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def served(handler: type[SimpleHTTPRequestHandler], asked: list[str]) -> Iterator[str]:
    """Serve the site; yield its address, and note what is asked for."""

    class Noting(handler):  # type: ignore[misc, valid-type]
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with Server((HOST, 0), partial(Noting, directory=str(SITE))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


if __name__ == "__main__":
    main()
