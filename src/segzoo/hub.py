"""Checkpoint folders: find, verify, load and save them.

A folder holds ``config.json`` (what the model is and how it wants its images), ``model.safetensors``,
``README.md`` (the Hub card) and, for published ones, ``train.yaml``. A prediction depends on nothing else.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.errors import MissingError, SegzooError
from segzoo.registry import create_model, list_models, nearest
from segzoo.weights import read_safetensors, sha256

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from segzoo.module import SegmentationModule

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RECIPE = "train.yaml"
CARD = "README.md"
FORMAT = 1  # of config.json; raised when an older segzoo could no longer read it


@dataclass
class LoadReport:
    """What loading a checkpoint did to each tensor of the model.

    Attributes:
        source: the folder it was read from.
        loaded: taken as stored.
        adapted: the first layer, changed to another number of input channels.
        initialised: new, at random: the head, for another number of classes, and heads of deep supervision that
            were not stored.
        ignored: stored, and not used: heads of deep supervision that the model does without.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line; the tensors that are not as stored are named."""
        parts = [self.taken()]
        for what, names in (
            ("adapted to the new in_channels", self.adapted),
            ("newly initialised", self.initialised),
            ("not used", self.ignored),
        ):
            if names:
                parts.append(f"{', '.join(names)} {what}")
        return "; ".join(parts)

    def taken(self) -> str:
        """How many tensors came from where."""
        return f"{len(self.loaded)} tensors loaded from {self.source}"


# ---- find


def checkpoint_folders() -> dict[str, Path]:
    """Every checkpoint on this machine by name: those in ``SEGZOO_HUB``, then those shipped with segzoo."""
    package = Path(__file__).parent
    roots = [Path(root) for root in os.environ.get("SEGZOO_HUB", "").split(os.pathsep) if root]
    roots += [package / "model_cards", package.parents[1] / "model_cards"]  # in a wheel, in a checkout
    found: dict[str, Path] = {}
    for root in roots:
        for config in sorted(root.glob(f"*/{CONFIG}")):
            found.setdefault(config.parent.name, config.parent)
    return found


def list_checkpoints(pattern: str = "*") -> list[str]:
    """Names of the checkpoints at hand, sorted; ``pattern`` is a shell pattern such as ``"*-busi"``."""
    return sorted(name for name in checkpoint_folders() if fnmatchcase(name, pattern))


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint: a local folder, or a name in ``SEGZOO_HUB`` or among the shipped ones.

    Raises:
        MissingError: there is none; the message names the nearest.
    """
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise MissingError(
                f"folder {path} holds no {CONFIG}, so it is no checkpoint; save one with save_pretrained"
            )
        return path
    if path.is_file():
        raise SegzooError(
            f"{path} is a file and a checkpoint is a folder ({CONFIG} beside {WEIGHTS}); for weights of an original "
            "repository use segzoo.convert"
        )
    folders = checkpoint_folders()
    if str(name_or_path) in folders:
        return folders[str(name_or_path)]
    raise MissingError(
        f"there is no checkpoint {str(name_or_path)!r}{nearest(str(name_or_path), [*folders, *list_models()])}, as a "
        "folder here, in SEGZOO_HUB or shipped with segzoo; `segzoo list` shows what there is"
    )


# ---- verify


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json, checked to be one that this version can use.

    Raises:
        SegzooError: it is not JSON, lacks a part, or is of a newer format.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SegzooError(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again") from None
    needed = {"format", "model", "preprocessing", "class_names", "sha256"}
    if not isinstance(config, dict) or needed - set(config):
        lacking = ", ".join(sorted(needed - set(config))) if isinstance(config, dict) else "everything"
        raise SegzooError(f"{path} is no segzoo checkpoint's config: it lacks {lacking}")
    if config["format"] > FORMAT:
        raise SegzooError(
            f"{path} was written by a newer segzoo ({config.get('segzoo_version')}); update segzoo to load it"
        )
    return config


def verify_files(folder: Path, config: dict[str, Any]) -> None:
    """Compare every file that config.json lists with its sha256.

    Raises:
        MissingError: a file is not there.
        SegzooError: a file is another one than the checkpoint was published with.
    """
    if WEIGHTS not in config["sha256"]:
        raise SegzooError(f"{folder / CONFIG} lists no sha256 for {WEIGHTS}, so the weights cannot be trusted")
    for name, expected in config["sha256"].items():
        file = folder / name
        if file.parent != folder or not file.is_file():
            raise MissingError(f"the checkpoint {folder} lacks its file {name}; fetch it again")
        if sha256(file) != expected:
            raise SegzooError(
                f"{file} is not the file this checkpoint was saved with (its sha256 differs from {CONFIG}): it was "
                "changed or damaged; fetch it again and do not use it"
            )


# ---- load


def from_pretrained(
    name_or_path: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    loss: "nn.Module | None" = None,
    optimizer: "Callable[[Iterable], Optimizer] | None" = None,
    lr_scheduler: "Callable[[Optimizer], LRScheduler] | None" = None,
) -> "SegmentationModule":
    """Load a checkpoint, in eval mode and float32.

    Args:
        name_or_path: a checkpoint's folder, or the name of one in ``SEGZOO_HUB`` or shipped with segzoo.
        num_classes: another number of classes than the checkpoint's starts with a new head.
        in_channels: another number of channels adapts the first layer.
        loss: for training it further; None is the architecture's.
        optimizer: likewise.
        lr_scheduler: likewise.

    Returns:
        The model; its ``load_report`` says which tensors were loaded, adapted or newly initialised.

    Raises:
        MissingError: there is no such checkpoint, or it lacks a file.
        SegzooError: a file of it is damaged, was changed, or is not safetensors.
    """
    folder = find_checkpoint(name_or_path)
    config = read_config(folder)
    verify_files(folder, config)
    arguments = dict(config["model"]["arguments"])
    changed = {"num_classes": num_classes, "in_channels": in_channels}
    arguments |= {key: value for key, value in changed.items() if value is not None}
    recipe: dict[str, Any] = {"loss": loss, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    model = create_model(config["model"]["name"], **arguments, **recipe)
    model.load_report = fill(model, read_weights(folder / WEIGHTS), str(folder), num_classes, in_channels)
    apply_contract(model, config)
    if model.load_report.adapted or model.load_report.initialised or model.load_report.ignored:
        print(model.load_report)  # nothing is changed without a word
    return model.eval()


def read_weights(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, floating ones in at least float32."""
    return {
        name: value.float() if value.is_floating_point() and value.itemsize < 4 else value
        for name, value in read_safetensors(path).items()
    }


def fill(
    model: "SegmentationModule",
    stored: "dict[str, Tensor]",
    source: str,
    num_classes: int | None,
    in_channels: int | None,
) -> LoadReport:
    """Load ``stored`` into ``model``; only what another head or first layer asks for, or only training, may differ."""
    from segzoo.nn.adapt import adapt_input_channels

    state, report = model.state_dict(), LoadReport(source)
    for name, own in state.items():
        given = stored.get(name)
        spared = given is None and model.is_training_only(name)
        if given is not None and given.shape == own.shape:
            state[name] = given
            report.loaded.append(name)
        elif given is not None and in_channels is not None and differs_only_in(1, given, own):
            state[name] = adapt_input_channels(given, own.shape[1])
            report.adapted.append(name)
        elif spared or (given is not None and num_classes is not None and differs_only_in(0, given, own)):
            report.initialised.append(name)
        else:
            found = "is missing" if given is None else f"has shape {tuple(given.shape)} instead of {tuple(own.shape)}"
            raise SegzooError(
                f"the weights in {source} do not fit their config: {name} {found}; fetch the checkpoint again"
            )
    report.ignored = [name for name in stored if name not in state]
    unknown = [name for name in report.ignored if not model.is_training_only(name)]
    if unknown:
        raise SegzooError(f"the weights in {source} do not fit their config: {unknown[0]} is not in the model")
    model.load_state_dict(state)
    return report


def differs_only_in(axis: int, one: "Tensor", other: "Tensor") -> bool:
    """Whether two tensors' shapes agree but for one axis."""
    shapes = [list(tensor.shape) for tensor in (one, other)]
    return one.ndim == other.ndim > axis and all(shape.pop(axis) for shape in shapes) and shapes[0] == shapes[1]


def apply_contract(model: "SegmentationModule", config: dict[str, Any]) -> None:
    """Give the model the checkpoint's preprocessing, classes and provenance."""
    from segzoo.preprocessing import preprocessing_from_dict

    preprocessing = preprocessing_from_dict(config["preprocessing"])
    if preprocessing.channels != model.in_channels:
        preprocessing = preprocessing.with_channels(model.in_channels)
    model.preprocessing = preprocessing
    if model.num_classes == config["model"]["arguments"].get("num_classes", 1):
        model.class_names = tuple(config["class_names"])
    model.data = config.get("data", {})


# ---- save


def save_pretrained(
    model: "SegmentationModule",
    folder: str | Path,
    *,
    name: str | None = None,
    dtype: str | None = None,
    train_config: str | Path | None = None,
    metrics: dict[str, Any] | None = None,
    licence: str | None = None,
) -> Path:
    """Write ``model`` as a checkpoint folder, replacing an older checkpoint of that folder in one step.

    Args:
        model: built by :func:`segzoo.create_model` (or loaded), whose name and arguments it records.
        folder: where to; its name is the checkpoint's unless ``name`` is given.
        name: what the checkpoint is called, such as ``lv-unet-busi``.
        dtype: "float16" halves the file: convolution kernels and matrices (rank 2 and more) are rounded,
            norms and biases kept. None keeps every tensor as it is.
        train_config: the ``segzoo fit -c`` file that made the weights; stored as train.yaml.
        metrics: what ``segzoo test`` measured.
        licence: of the weights; None takes those of all data they were trained on.

    Returns:
        The folder.

    Raises:
        SegzooError: the model is not one of the registry's, or the folder holds something else.
    """
    folder = Path(folder)
    if model.model_name is None:
        raise SegzooError("only a model built by segzoo.create_model can be saved, since its name is what is recorded")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file()):
        raise SegzooError(f"{folder} holds something that is no checkpoint; save to a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_checkpoint(model, draft, name or folder.resolve().name, dtype, train_config, metrics, licence)
        replace_folder(folder, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def write_checkpoint(
    model: "SegmentationModule",
    folder: Path,
    name: str,
    dtype: str | None,
    train_config: str | Path | None,
    metrics: dict[str, Any] | None,
    licence: str | None,
) -> None:
    """Write the files of a checkpoint into an empty folder."""
    from safetensors.torch import save_file

    save_file(stored_tensors(model, dtype), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors' files are private
    if train_config is not None:
        shutil.copyfile(train_config, folder / RECIPE)
    config: dict[str, Any] = {
        "format": FORMAT,
        "segzoo_version": __version__,
        "name": name,
        "model": {"name": model.model_name, "arguments": model.arguments},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "preprocessing": model.preprocessing.to_dict(),
        "class_names": list(model.class_names),
        "data": model.data,
        "metrics": metrics or {},
        "licences": {
            "code": "Apache-2.0",
            "weights": licence or training_licence(model.data),
            "data": model.data.get("licence"),
        },
        "sha256": {file: sha256(folder / file) for file in (WEIGHTS, RECIPE) if (folder / file).is_file()},
    }
    write_config(folder, config)


def training_licence(data: dict[str, Any]) -> str | None:
    """The licences of all data that a model was trained on, pretraining included."""
    found = {part.get("licence") for part in (data, *data.get("pretrained_on", []))} - {None}
    return " + ".join(sorted({one for licence in found for one in licence.split(" + ")})) or None


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json and the card that is made from it."""
    from segzoo.card import render_card

    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(render_card(config), encoding="utf-8")


def record_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Put what ``segzoo test`` measured into a checkpoint's config and card."""
    config = read_config(folder)
    write_config(folder, {**config, "metrics": metrics})


def stored_tensors(model: "SegmentationModule", dtype: str | None) -> "dict[str, Tensor]":
    """The state dict as it goes to disk."""
    if dtype not in (None, "float16"):
        raise SegzooError(f"a checkpoint is stored as it is or in float16, not in {dtype!r}")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if dtype is None:
        return state
    return {
        name: value.half() if value.ndim >= 2 and value.is_floating_point() else value for name, value in state.items()
    }


def replace_folder(folder: Path, new: Path) -> None:
    """Put ``new`` in the place of ``folder``."""
    new.chmod(0o755)  # mkdtemp's folders are private
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    folder.rename(old / folder.name)
    new.rename(folder)
    shutil.rmtree(old)
