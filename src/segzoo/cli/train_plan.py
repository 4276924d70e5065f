"""Plan of a training, where its sizes are not given: from the data and the memory, by `segzoo.data.planning`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from segzoo import limits
from segzoo.checkpoints.names import RECIPE
from segzoo.cli.run_folder import written
from segzoo.cli.train_names import LOADER
from segzoo.data import Decathlon, Folder, SegmentationDataModule, VolumeDataModule
from segzoo.data.planning import Network, Plan, plan_images, plan_volumes
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.imaging.volumes import read_geometry
from segzoo.network import SegmentationNetwork
from segzoo.preprocessing.volume import VolumePreprocessing
from segzoo.registry import NOT_ARCHITECTURE, arguments_of, create_model, models
from segzoo.training.memory import training_bytes

AUTO, PAPER = "auto", "paper"
SIZES = ("image_size", "spacing", "patch_size")  # of the data; None where they were not given
BATCH = "batch_size"
HALVINGS = 4  # blocks of a network whose strides can be chosen
WHERE = ("revision", "cache_dir", "token", "local_files_only")  # of a checkpoint
COUNTED = {2: 64, 3: 32}  # least sides of an input at which memory is counted


@dataclass(frozen=True)
class Start:
    """Model that is trained, before it is built.

    Args:
        name: of its architecture.
        arguments: of that.
        contract: sizes that a checkpoint was trained at, as its config.json has them; empty for a new model.
        free_strides: whether its strides may follow from the data.
    """

    name: str
    arguments: dict[str, Any]
    contract: dict[str, Any] = field(default_factory=dict)
    free_strides: bool = False


# ---- of segzoo fit


def plan_run(options: Any, words: list[str], like: Path | None = None) -> None:
    """Fill in the sizes that nobody has given, in place, and put the reasons where the option was.

    Only for data of somebody's own; named datasets keep the papers' sizes. A run that goes on keeps what it had, and a
    configuration file that has the data has its sizes, too.

    Args:
        options: of ``segzoo fit``.
        words: its command line.
        like: recipe of a run whose sizes are to be taken.

    Raises:
        SegzooError: the data cannot be read, or the model cannot be built.
    """
    if options.plan != AUTO:
        return
    options.plan = PAPER
    kind = {f"{one.__module__}.{one.__name__}": one for one in (Folder, Decathlon)} | {
        f"segzoo.data.{one.__name__}": one for one in (Folder, Decathlon)
    }
    chosen, model = options.data.init_args, options.model
    if options.data.class_path not in kind or any(has_data(file) for file in options.config or ()):
        return
    given = {key: as_sides(chosen[key]) for key in SIZES if chosen.get(key) is not None}
    if any(BATCH in word for word in words):
        given[BATCH] = chosen[BATCH]
    before = like if options.ckpt_path is None else Path(options.ckpt_path).parent / RECIPE
    if before is not None:
        take_over(options, written(before), given)
        return
    start = start_of(model.class_path, model.init_args.as_dict())
    if start is not None:
        data = kind[options.data.class_path](**plain(chosen.as_dict()))
        plan = make_plan(data, start, given, str(options.trainer.accelerator))
        for key, value in plan.data.items():
            chosen[key] = value
        if plan.strides is not None:
            model.init_args["strides"] = plan.strides
        options.plan = plan.reasons or PAPER


def has_data(file: Any) -> bool:
    """Return whether a configuration file names the data."""
    content = written(Path(str(file)))
    return "data" in content or "data" in content.get("fit", {})


def take_over(options: Any, before: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Go on at the sizes that were planned when a run began, where they are not given now."""
    options.plan = before.get("plan", PAPER)
    if not isinstance(options.plan, list):
        return
    planned = {str(reason).partition(" ")[0] for reason in options.plan}
    for part, keys in (("data", planned - set(given)), ("model", planned & {"strides"})):
        had = before.get(part, {}).get("init_args", {})
        for key in keys & set(had) & set(options[part].init_args.as_dict()):
            options[part].init_args[key] = had[key]


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments but for those that are objects of classes still to be built."""
    return {
        key: value
        for key, value in arguments.items()
        if key != "augmentation" and not (isinstance(value, dict) and "class_path" in value)
    }


# ---- of any model and any data


def start_of(class_path: str, arguments: Mapping[str, Any]) -> Start | None:
    """Return what is known of a model before it is built; None of a class of somebody's own.

    Args:
        class_path: of its builder, or of what loads a checkpoint.
        arguments: of that.

    Raises:
        MissingError: there is no such checkpoint.
    """
    said = {key: value for key, value in arguments.items() if value is not None}
    if class_path == LOADER:
        where = {key: said[key] for key in WHERE if key in said}
        config = open_checkpoint(said["name_or_path"], **where).config
        changed = {str(key): said[key] for key in ("num_classes", "in_channels") if key in said}
        contract = config.entries.get("preprocessing") or {}
        return Start(config.model.name, {**config.model.arguments, **changed}, contract)
    name = next((known for known, facts in models().items() if facts.builder == class_path), None)
    if name is None:
        return None
    own = {key: value for key, value in plain(said).items() if key not in NOT_ARCHITECTURE}
    # UpKern starts from a network of other kernels and the same strides, whose own are those of its checkpoint
    free = "strides" in arguments_of(name) and "strides" not in said and "upkern_from" not in said
    return Start(name, own, free_strides=free)


def make_plan(data: SegmentationDataModule, start: Start, given: Mapping[str, Any], accelerator: str = "auto") -> Plan:
    """Plan a training of a model on data.

    Args:
        data: of which the training part counts.
        start: the model.
        given: sizes that are given, by the names of the data's options.
        accelerator: as the Trainer takes it.

    Raises:
        SegzooError: the data cannot be read, or the model cannot be built or is not one for such data.
    """
    samples, sizes = data.part_samples("train"), {**given}
    volumes = isinstance(data, VolumeDataModule)
    network = measured(start, free_strides=start.free_strides and "patch_size" not in sizes)
    memory, slow = memory_for_training(accelerator)
    if len(network.stride) != (3 if volumes else 2):
        raise SegzooError(
            f"{data.root} holds {'volumes' if volumes else 'images'}, and {start.name} is a model of "
            f"{'images' if volumes else 'volumes'}; take another, or give it its spatial_dims"
        )
    for key in SIZES:
        if start.contract.get(key) is not None:
            sizes.setdefault(key, as_sides(start.contract[key]))
    if not isinstance(data, VolumeDataModule):
        return plan_images([data.size_of(sample) for sample in samples], network, memory, slow, **sizes)
    own = VolumePreprocessing(len(data.channel_names))  # brings axes into order, and resamples nothing
    places = [read_geometry(sample.image, geometry=data.geometry) for sample in samples]
    return plan_volumes(
        [own.grid(place) for place in places],
        [own.network_spacing(place) for place in places],
        network,
        memory,
        resample=not start.contract,
        **sizes,
    )


def as_sides(value: Any) -> tuple[Any, ...]:
    """Return sides as a tuple, of one number too."""
    return (value, value) if isinstance(value, int) else tuple(value)


def measured(start: Start, free_strides: bool) -> Network:
    """Return what a model demands of its input, and the memory that training it takes.

    Raises:
        SegzooError: it cannot be built so.
    """
    with torch.random.fork_rng(devices=[]):  # what the training draws stays as it was
        try:
            return counted(start, free_strides, "meta")
        except SegzooError:
            raise
        except Exception:  # an operation that is not there for tensors without values
            return counted(start, free_strides, "cpu")


def counted(start: Start, free_strides: bool, device: str) -> Network:
    """Build a model on a device and count what a step of training keeps there."""
    with torch.device(device):
        model: SegmentationNetwork = create_model(start.name, **start.arguments)
    model.to(device).train()
    dims = model.spatial_dims
    stride = model.stride if isinstance(model.stride, tuple) else (model.stride,) * dims
    sides = [step * math.ceil(max(2 * step, COUNTED[dims]) / step) for step in stride]
    weights, pixel = training_bytes(model, (2, model.in_channels, *sides))
    return Network(stride, weights, pixel, HALVINGS if free_strides and dims == 3 else 0)


def memory_for_training(accelerator: str) -> tuple[int, bool]:
    """Return the bytes that a training may take, and whether there is no GPU.

    A power of two, of at most four fifths of a GPU or half of what is free beside a processor: the same in all
    processes of a run, and when it is planned again.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return 2 ** int(math.log2(0.8 * torch.cuda.get_device_properties(0).total_memory)), False
    slow = accelerator == "cpu" or not torch.backends.mps.is_available()
    return 2 ** int(math.log2(max(2, limits.memory_left() / 2))), slow
