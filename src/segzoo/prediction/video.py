"""Video in, the masks of its frames and an overlaid video out."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segzoo.checkpoints.folder import DRAFT_END
from segzoo.errors import SegzooError
from segzoo.imaging.masks import read_mask
from segzoo.imaging.segmentation import Segmentation, mask_paths
from segzoo.imaging.videos import Frame, Video, VideoWriter, comment_of
from segzoo.prediction.files import in_the_way, move, not_written, segment_batch, write
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import DRAFT, Job
from segzoo.prediction.resume import note_of, same_source, unfinished
from segzoo.prediction.several import taken_ahead
from segzoo.preprocessing.base import Prepared

WAITING = 8  # frames that may wait to be written


class Shot(NamedTuple):
    """Frame on its way.

    Attributes:
        frame: of the video.
        job: with the mask's file.
        given: ready to be segmented; None where an earlier run has written its mask.
    """

    frame: Frame
    job: Job
    given: Prepared | None


def segment_video(
    pipeline: Pipeline, file: Path, output: Path, recipe: dict[str, Any], channels: Sequence[str] | None
) -> str:
    """Write a mask for each frame, ``output/<stem>/<stem>_000000.png``, and ``output/<stem>_overlay.mp4``.

    Frames are read, segmented and written at the same time. Masks that an earlier run has written are kept, as those of
    images are; the overlay is written anew, and is there when it is whole.

    Args:
        pipeline: of a model of images.
        file: the video.
        output: folder.
        recipe: what masks depend on besides the frame.
        channels: the classes' names where each has a mask of its own (multi-label), else None.

    Returns:
        What the masks cover on average.

    Raises:
        OutputError: nothing more can be written.
        SegzooError: there is none to segment, or the file is damaged or cut short; what could be read is written then.
    """
    if pipeline.contract.spatial_dims != 2:
        raise SegzooError(f"{file} is a video, and this model segments volumes; take a model of images")
    with Video(file) as video, TemporaryDirectory(prefix=DRAFT, suffix=DRAFT_END, dir=output) as folder:
        overlay = output / f"{file.stem}_overlay.mp4"
        note = note_of(file, recipe)
        if overlay.is_file() and not same_source(comment_of(overlay) or "", note):
            raise in_the_way(overlay, file)
        draft = Path(folder) / overlay.name
        try:
            parts = written(pipeline, video, draft, output / file.stem, recipe, channels, note)
        except OSError as error:
            raise not_written(output / file.stem, error) from error
        move(draft, overlay)
    if video.damage:
        raise SegzooError(
            f"{file} is damaged or cut short after {video.read} frames ({video.damage}): the masks of those are in "
            f"{output / file.stem}, and {overlay.name} shows them"
        )
    names = pipeline.backend.task.foreground(pipeline.backend.class_names)
    covered = ", ".join(f"{name} {part:.1%}" for name, part in zip(names, np.mean(parts, axis=0), strict=True))
    return f"{video.read} frames, {covered}"


def written(
    pipeline: Pipeline,
    video: Video,
    draft: Path,
    folder: Path,
    recipe: dict[str, Any],
    channels: Sequence[str] | None,
    note: str,
) -> list[list[float]]:
    """Write masks into a folder and the overlay to a draft; return what part of each frame each class covers."""
    coming = taken_ahead(shots(pipeline, video, folder, recipe, channels), pipeline.batch_size)
    parts: list[list[float]] = []
    writer: VideoWriter | None = None
    waiting: deque[Future[list[float]]] = deque()
    with ThreadPoolExecutor(1) as writing:
        for shot, found in segmented(pipeline, coming):
            writer = writer or VideoWriter(draft, video, note)
            waiting.append(writing.submit(finish, shot, found, writer, pipeline.backend.class_names, channels))
            if len(waiting) > WAITING:
                parts.append(waiting.popleft().result())
        parts += [one.result() for one in waiting]
    assert writer is not None  # as there is a frame
    writer.close()
    return parts


def shots(
    pipeline: Pipeline, video: Video, folder: Path, recipe: dict[str, Any], channels: Sequence[str] | None
) -> Iterator[Shot]:
    """Yield frames, ready to be segmented where they are not done.

    Raises:
        SegzooError: a mask's file holds what was made from something else.
    """
    for frame in video:
        job = Job(video.path, folder / f"{folder.name}_{frame.number:06}.png")
        todo = unfinished([job], {**recipe, "frame": frame.number}, channels)
        if todo and todo[0].taken is not None:
            raise in_the_way(todo[0].taken, video.path)
        yield Shot(frame, todo[0], pipeline.read(frame.image)) if todo else Shot(frame, job, None)


def segmented(pipeline: Pipeline, coming: Iterator[Shot]) -> Iterator[tuple[Shot, Segmentation | None]]:
    """Yield each frame with its segmentation; None where it was done before."""
    while some := [*islice(coming, pipeline.batch_size)]:
        todo = [shot.given for shot in some if shot.given is not None]
        found = iter(segment_batch(pipeline, todo) if todo else [])
        yield from ((shot, None if shot.given is None else next(found)) for shot in some)


def finish(
    shot: Shot, found: Segmentation | None, writer: VideoWriter, names: tuple[str, ...], channels: Sequence[str] | None
) -> list[float]:
    """Write a frame's mask, or read the one that is there, and add its overlay to the video."""
    if found is None:
        found = kept(shot.job, names, channels)
    else:
        write(shot.job, found)
    found = replace(found, image=shot.frame.image)  # in colours, also where the model sees greys
    writer.write(np.asarray(found.overlay()), shot.frame.time)
    return [float(part.mean()) for part in found.class_masks()]


def kept(job: Job, names: tuple[str, ...], channels: Sequence[str] | None) -> Segmentation:
    """Return what an earlier run has written."""
    masks: list[npt.NDArray[Any]] = [read_mask(path) for path in mask_paths(job.mask, channels)]
    mask = masks[0] if channels is None else np.stack(masks)
    return Segmentation(mask, np.empty((0, *masks[0].shape), np.float32), names)
