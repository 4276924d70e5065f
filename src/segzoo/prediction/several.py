"""Several inputs in memory, one after another: the next one is read while one is segmented."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from segzoo.errors import SegzooError
from segzoo.imaging.images import is_tensor
from segzoo.imaging.segmentation import Segmentation
from segzoo.prediction.pipeline import Pipeline
from segzoo.preprocessing.base import Prepared

T = TypeVar("T")


def segment_all(pipeline: Pipeline, image: Any) -> Any:
    """Return the segmentation of an input, or a list of them for a list of inputs.

    A list of numbers, or of lists of them, is one image.
    """
    if not isinstance(image, list) or any(isinstance(one, list | tuple) or np.isscalar(one) for one in image):
        return pipeline(image)
    return [*segment_each(pipeline, image, batch_size=pipeline.batch_size)]


def segment_each(pipeline: Pipeline, sources: Iterable[Any], *, batch_size: int = 1) -> Iterator[Segmentation]:
    """Yield the segmentation of each input, in their order.

    Args:
        pipeline: that segments.
        sources: taken and read by another thread, one batch ahead of what is segmented.
        batch_size: how many neighbours of one key are segmented together.

    Raises:
        SegzooError: one cannot be read or segmented; its number is said.
    """
    waiting: list[Prepared] = []
    for given in taken_ahead(readings(pipeline, sources), batch_size):
        if waiting and pipeline.key(given) != pipeline.key(waiting[0]):
            yield from pipeline.segment(waiting)
            waiting = []
        waiting.append(given)
        if len(waiting) == batch_size or pipeline.key(given) is None:
            yield from pipeline.segment(waiting)
            waiting = []
    if waiting:
        yield from pipeline.segment(waiting)


def readings(pipeline: Pipeline, sources: Iterable[Any]) -> Iterator[Prepared]:
    """Yield inputs that are ready to be segmented.

    Raises:
        SegzooError: one cannot be read; its number is said.
    """
    for number, source in enumerate(sources, 1):
        try:
            yield pipeline.read(source)
        except SegzooError as error:
            raise type(error)(f"input {number}: {error}") from error


def taken_ahead(things: Iterable[T], ahead: int) -> Iterator[T]:
    """Yield things as they come, while another thread already takes the next ones.

    Args:
        things: in that thread alone.
        ahead: how many more are taken.
    """
    iterator, end = iter(things), object()
    with ThreadPoolExecutor(1) as taker:
        coming: deque[Future[Any]] = deque(taker.submit(next, iterator, end) for _ in range(ahead))
        try:
            while (thing := coming.popleft().result()) is not end:
                coming.append(taker.submit(next, iterator, end))
                yield thing
        finally:
            taker.shutdown(cancel_futures=True)


def owned(frames: Iterable[Any]) -> Iterator[Any]:
    """Yield copies of frames in memory, as a camera may write the next one over the last."""
    for frame in frames:
        yield frame.copy() if isinstance(frame, np.ndarray) else frame.clone() if is_tensor(frame) else frame
