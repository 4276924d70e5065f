"""``segzoo plan``."""

import argparse
from pathlib import Path
from typing import Any

from segzoo.cli.train_names import LOADER, model_options
from segzoo.cli.train_plan import make_plan, start_of
from segzoo.data import BUSI, ISIC2017, CVCClinicDB, Decathlon, Folder, SegmentationDataModule, VolumeDataModule
from segzoo.data.decathlon import DESCRIPTION
from segzoo.data.planning import Plan
from segzoo.errors import MissingError, SegzooError, attempt
from segzoo.registry import arguments_of

MODEL = {True: "mednext_s_k3", False: "lv_unet"}  # of volumes, of images


def run_plan(options: argparse.Namespace) -> None:
    """Run ``segzoo plan DATA``."""
    data = data_of(options.data)
    name = options.model or MODEL[isinstance(data, VolumeDataModule)]
    plan = plan_for(name, data)
    images = len(data.part_samples("train"))
    print(f"segzoo: {name} on the {images} training images of {data.name} in {data.find_root()}")
    for reason in plan.reasons:
        print(reason)


def plan_for(name: str, data: SegmentationDataModule) -> Plan:
    """Plan a training of a model or a checkpoint, by its name.

    Raises:
        SegzooError: it is a class of somebody's own, or not for such data.
    """
    path, *more = model_options(name)
    arguments: dict[str, Any] = {"name_or_path": more[-1]} if path == LOADER else {}
    if path != LOADER and "spatial_dims" in arguments_of(name):
        arguments["spatial_dims"] = 3 if isinstance(data, VolumeDataModule) else 2
    start = start_of(path, arguments)
    if start is None:
        raise SegzooError(f"{name} is no model that segzoo list names, so nothing is known of it before it is built")
    return make_plan(data, start, {})


def data_of(root: Path) -> SegmentationDataModule:
    """Return the dataset that lies in a folder, known by what is in it.

    Raises:
        MissingError: there is none.
    """
    if (root / DESCRIPTION).is_file():
        return Decathlon(root)
    for kind in (BUSI, CVCClinicDB, ISIC2017):
        if not isinstance(attempt(kind(root).find_root), MissingError):
            return kind(root)
    return Folder(root)
