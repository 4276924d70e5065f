"""Gains and losses of an exported file against float32: bytes, time, and Dice on the checkpoint's test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

import segzoo.data as data_modules
from segzoo.data import Decathlon, SegmentationDataModule
from segzoo.data.samples import Sample
from segzoo.data.volumes import source_of
from segzoo.errors import SegzooError
from segzoo.export.check import check_inputs
from segzoo.export.int8 import speed_ratio
from segzoo.export.write import Exported, export
from segzoo.metrics.metric import Dice
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.runtimes import open_exported
from segzoo.prediction.torch_backend import TorchBackend

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


CALIBRATION_IMAGES = 32
# options of a dataset, as checkpoints record them
CHOICES = ("split", "fold", "seed", "normal", "reader", "class_names", "multilabel", "foreground", "colours", "values")


@dataclass(frozen=True)
class Comparison:
    """Measurements of a file beside one in float32.

    Attributes:
        size: of the file, in MB.
        float32_size: of the same model's in float32, in MB.
        speed: how many times as fast as that one it is, by one runtime on one thread.
        dice: per-image mean over the test images, each at its own size.
        python_dice: the same of the model in Python.
        images: how many test images there are.
        dataset: whose.
        runtime: that one, with its version.
    """

    size: float
    float32_size: float
    speed: float
    dice: float
    python_dice: float
    images: int
    dataset: str
    runtime: str

    def __str__(self) -> str:
        return (
            f"{self.size:.2f} MB (float32: {self.float32_size:.2f} MB); {self.speed:.2f} times as fast as float32 "
            f"({self.runtime}, 1 thread); Dice {self.dice:.4f} on the {self.images} test images of {self.dataset} "
            f"(Python: {self.python_dice:.4f}, lost: {self.python_dice - self.dice:z.4f})"
        )


def training_data(model: "SegmentationNetwork", root: Path) -> SegmentationDataModule:
    """Return the images or volumes that a checkpoint was trained and tested on, split as they were then.

    Args:
        model: as loaded from the checkpoint.
        root: the dataset's folder or its parent.

    Raises:
        MissingError: the dataset is not there.
        SegzooError: it is not one that the zoo reads, or splits otherwise than it did.
    """
    kinds = [getattr(data_modules, name) for name in data_modules.__all__]
    datasets = {kind.name: kind for kind in kinds if isinstance(getattr(kind, "name", None), str)}
    name = model.data.get("dataset")
    kind = Decathlon if "patch_size" in model.data else datasets.get(name)  # whose checkpoints name the task
    if kind is None:
        raise SegzooError(
            f"--data measures models that were trained on one of {', '.join(datasets)}, not on {name or 'unknown data'}"
        )
    data = kind(root, **{key: model.data[key] for key in CHOICES if key in model.data})
    if data.split_sha256 != model.data.get("split_sha256"):
        raise SegzooError(
            f"{root} is not the {name} that the checkpoint was trained on: it splits otherwise, so that test images "
            "may have been trained on; give that dataset, whole (one that groups of your own split cannot be split so "
            "here)"
        )
    return data


def calibration_images(data: SegmentationDataModule) -> list[Any]:
    """Return some training images from all over their list."""
    samples = part(data, "train")
    count = min(CALIBRATION_IMAGES, len(samples))
    return [source_of(samples[round(place)], data) for place in np.linspace(0, len(samples) - 1, count)]


def part(data: SegmentationDataModule, name: str) -> list[Sample]:
    """Return the samples of train, val or test."""
    samples = {sample.id: sample for sample in data.samples()}
    return [samples[identifier] for identifier in data.split_ids[name]]


def read_target(sample: Sample, data: SegmentationDataModule) -> npt.NDArray[np.int16]:
    """Return a sample's label on its own grid."""
    return data.label_of(sample)


def measure(
    model: "SegmentationNetwork", written: Exported, data: SegmentationDataModule, size: Sequence[int] | None
) -> Comparison:
    """Compare an exported file with one in float32, written for that alone, and with Python.

    Args:
        model: that the file was exported from.
        written: the file, an .onnx or .xml one.
        data: of which the test images are taken.
        size: sides of the inputs that the file takes; None where they vary.
    """
    path, network = written.path, model.deploy()
    opened = open_exported(path)
    of_network, of_file = Pipeline(TorchBackend(network)), Pipeline(opened)
    file_dice, python_dice = (Dice(model.num_classes, multilabel=model.multilabel) for _ in range(2))
    samples = part(data, "test")
    for sample in samples:
        target = torch.from_numpy(read_target(sample, data))[None]
        for pipeline, metric in ((of_file, file_dice), (of_network, python_dice)):
            metric.update(torch.from_numpy(pipeline(source_of(sample, data)).mask)[None].long(), target)
    x, _ = check_inputs(network, source_of(samples[0], data), size)
    with TemporaryDirectory() as folder:
        whole = export(model, Path(folder) / f"float32{path.suffix}", size=size)
        speed = speed_ratio(path, whole.path, x.numpy(), opened.backend)
    return Comparison(
        size=written.size / 1e6,
        float32_size=whole.size / 1e6,
        speed=speed,
        dice=file_dice.compute().item(),
        python_dice=python_dice.compute().item(),
        images=len(samples),
        dataset=model.data["dataset"],
        runtime=opened.session.runtime,
    )
