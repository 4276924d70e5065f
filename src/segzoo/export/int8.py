"""int8: the wide convolutions of an exported ONNX file in integers, by ONNX Runtime's static quantisation; and speeds.

Which convolutions, and how their ranges are found, was chosen by Dice on validation images and by time on a CPU with
integer instructions. Convolutions of few channels lie where the grid is finest: their rounding shows in masks, and
integers make them slower, as they do depthwise ones. Both hold next to no weights, so leaving them costs no size.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.prediction.runtimes import BACKENDS, read_weights

if TYPE_CHECKING:
    import onnx


Array = npt.NDArray[np.float32]
FEWEST_CHANNELS = 64  # in and out, of a convolution that is quantised
TURNS = 30  # that files are timed for


def quantize(source: Path, target: Path, inputs: Iterable[Array]) -> None:
    """Write the int8 form of a float32 ONNX file; its metadata stay.

    Args:
        source: in a folder that may be written to.
        target: the file to write.
        inputs: float32 [B, C, H, W] each, to find the ranges of what passes between layers.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        feeds = ({"image": x} for x in inputs)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    with without_advice():
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: with 8, sums overflow on older x86 CPUs, and masks with them
            activation_type=QuantType.QUInt8,  # with weights of QInt8, what the integer instructions of x86 multiply
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes_to_quantize(onnx.load(source)),
        )


def nodes_to_quantize(model: "onnx.ModelProto") -> list[str]:
    """Convolutions with many channels in and out, not depthwise, and what passes integers on between them."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type in ("Relu", "MaxPool"):  # quantised where what they take is
            names.append(node.name)
        elif node.op_type == "Conv" and node.input[1] in shapes:
            channels, of_group, *_ = shapes[node.input[1]]
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            if of_group > 1 and min(channels, groups * of_group) >= FEWEST_CHANNELS:
                names.append(node.name)
    return names


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep the quantiser's advice to prepare the graph, which the exporter has done, out of the log."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---- size and speed


def refuse_what_gains_nothing(quantized: Path, whole: Path, x: Array) -> None:
    """Refuse an int8 file that is neither smaller than the float32 one nor faster on ``x``.

    Raises:
        SegzooError: saying so.
    """
    if quantized.stat().st_size >= whole.stat().st_size and speed_ratio(quantized, whole, x) <= 1:
        raise SegzooError("int8 was not written: the file is neither smaller nor faster than in float32; export that")


def speed_ratio(path: Path, whole: Path, x: Array, backend: str = "onnxruntime") -> float:
    """Return how many times as fast as ``whole`` the file ``path`` is on ``x``, on one thread, by turns.

    What counts is the time that this process computes, so that other work on the machine does not.
    """
    contents = [(file, file.read_bytes()) for file in (path, whole)]
    sessions = [BACKENDS[backend](content, 1, read_weights(file, content), "auto") for file, content in contents]
    times: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for session, taken in zip(sessions, times, strict=True):
            start = time.process_time()
            session.run(x)
            taken.append(time.process_time() - start)
    own, of_whole = map(np.median, times)
    return float(of_whole / own)
