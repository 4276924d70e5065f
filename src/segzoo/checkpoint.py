"""A checkpoint is a folder: read, check, save and copy it.

It holds ``config.json`` (what the model is and how it wants its images), ``model.safetensors``, ``README.md`` (the Hub
card) and, for published ones, ``train.yaml``, ``probe.safetensors`` and a picture; a prediction depends on nothing
else.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.errors import MissingError, SegzooError
from segzoo.licences import joined
from segzoo.registry import NOT_ARCHITECTURE
from segzoo.weights import sha256

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.module import SegmentationModule

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RECIPE = "train.yaml"
CARD = "README.md"
FORMAT = 1  # of config.json; raised when an older segzoo could no longer read it
FIRST_VERSION = "1.0"
STARTS = ("encoder_weights", "upkern_from", "name_or_path")  # options of a recipe that name weights to start from


# ---- read and check


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json, checked to be one that this version can use and that asks for nothing strange.

    Raises:
        SegzooError: it is not JSON, lacks a part, is of a newer format, or asks for more than a model of the zoo and
            the files of its folder.
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
    if not isinstance(config["format"], int) or config["format"] > FORMAT:
        raise SegzooError(
            f"{path} was written by a newer segzoo ({config.get('segzoo_version')}); update segzoo to load it"
        )
    for part in ("data", "started_from", "metrics", "licences"):
        if not isinstance(config.get(part, {}), dict):
            raise SegzooError(f"{path} must give its {part} as an object, not as {config[part]!r}")
    refuse_strange_model(path, config["model"])
    refuse_strange_classes(path, config["class_names"], config["model"]["arguments"])
    refuse_strange_files(path, config["sha256"])
    return config


def refuse_strange_model(path: Path, model: Any) -> None:
    """A config names a model of the registry and plain values: nothing that it says is imported, run or opened."""
    if not isinstance(model, dict) or set(model) != {"name", "arguments"} or not isinstance(model["arguments"], dict):
        raise SegzooError(f"{path} must give the model as its name and arguments, not as {model!r}")
    for name, value in model["arguments"].items():
        if name in NOT_ARCHITECTURE or not is_plain(value):
            raise SegzooError(
                f"{path} asks for {name}={value!r}, but a checkpoint may only say what its model is, in numbers, words "
                "and lists of them; do not use it"
            )
        if name in ("in_channels", "num_classes") and type(value) is not int:
            raise SegzooError(f"{path} must give {name} as a whole number, not as {value!r}; fetch it again")
        if name == "multilabel" and type(value) is not bool:
            raise SegzooError(f"{path} must give multilabel as true or false, not as {value!r}; fetch it again")


def refuse_strange_classes(path: Path, names: Any, arguments: dict[str, Any]) -> None:
    """A config names every value of a mask or, of a multi-label one, every channel."""
    count = arguments.get("num_classes", 1)
    count = 2 if count == 1 and not arguments.get("multilabel") else count
    words = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not words or len(names) != count:
        raise SegzooError(f"{path} must name the model's {count} classes as a list of words, not as {names!r}")


def is_plain(value: Any) -> bool:
    """Whether a JSON value is a number, a word, null, or a list of them."""
    return all(map(is_plain, value)) if isinstance(value, list) else not isinstance(value, dict)


def refuse_strange_files(path: Path, hashes: Any) -> None:
    """A config lists files directly inside its folder, the weights among them."""
    if not isinstance(hashes, dict) or WEIGHTS not in hashes:
        raise SegzooError(f"{path} lists no sha256 for {WEIGHTS}, so the weights cannot be trusted")
    for name in hashes:
        if name in (CONFIG, "", ".", "..") or any(mark in name for mark in "/\\:"):
            raise SegzooError(f"{path} lists the file {name!r}, which is not one beside it; do not use this checkpoint")


def is_complete(folder: Path, config: dict[str, Any]) -> bool:
    """Whether every file that config.json lists is there, whatever is in it."""
    return all((folder / name).is_file() for name in config["sha256"])


def damaged_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The files whose sha256 is not the one that config.json lists.

    Raises:
        MissingError: a file is not there.
    """
    for name in config["sha256"]:
        if not (folder / name).is_file():
            raise MissingError(f"the checkpoint {folder} lacks its file {name}; fetch it again")
    return [folder / name for name, expected in config["sha256"].items() if sha256(folder / name) != expected]


def verify_files(folder: Path, config: dict[str, Any]) -> None:
    """Compare every file that config.json lists with its sha256.

    Raises:
        MissingError: a file is not there.
        SegzooError: a file is another one than the checkpoint was saved with.
    """
    for file in damaged_files(folder, config):
        raise SegzooError(
            f"{file} is not the file this checkpoint was saved with (its sha256 differs from {CONFIG}): it was changed "
            "or damaged; fetch it again and do not use it"
        )


# ---- save


def save_pretrained(
    model: "SegmentationModule",
    folder: str | Path,
    *,
    name: str | None = None,
    version: str = FIRST_VERSION,
    dtype: str | None = None,
    train_config: str | Path | None = None,
    metrics: dict[str, Any] | None = None,
    licence: str | None = None,
) -> Path:
    """Write ``model`` as a checkpoint folder, replacing an older checkpoint of that folder, alone, in one step.

    Args:
        model: built by :func:`segzoo.create_model` (or loaded), whose name and arguments it records.
        folder: where to; its name is the checkpoint's unless ``name`` is given.
        name: what the checkpoint is called, such as ``lv-unet-busi``.
        version: of the checkpoint; on the Hub it becomes the tag ``v<version>``.
        dtype: "float16" halves the file: convolution kernels and matrices (rank 2 and more) are rounded,
            norms and biases kept. None keeps every tensor as it is.
        train_config: the ``segzoo fit -c`` file that made the weights; stored as train.yaml.
        metrics: what ``segzoo test`` measured.
        licence: of the weights; None takes that of the checkpoint they started from, with those of all data they were
            trained on since.

    Returns:
        The folder.

    Raises:
        SegzooError: the model is not one of the registry's, the folder holds something else, or it cannot be written.
    """
    folder = Path(folder)
    if model.model_name is None:
        raise SegzooError("only a model built by segzoo.create_model can be saved, since its name is what is recorded")
    name = name or folder.resolve().name
    with replacing(folder) as draft:
        write_checkpoint(model, draft, name, version, dtype, train_config, metrics, licence)
    return folder


def write_checkpoint(
    model: "SegmentationModule",
    folder: Path,
    name: str,
    version: str,
    dtype: str | None,
    train_config: str | Path | None,
    metrics: dict[str, Any] | None,
    licence: str | None,
) -> None:
    """Write the files of a checkpoint into an empty folder."""
    from segzoo.weights import write_safetensors

    refuse_strange_classes(Path(CONFIG), list(model.class_names), model.arguments)  # as who loads it would
    write_safetensors(stored_tensors(model, dtype), folder / WEIGHTS)
    if train_config is not None:
        shutil.copyfile(train_config, folder / RECIPE)
    started = {} if train_config is None else starting_weights(folder / RECIPE)
    config: dict[str, Any] = {
        "format": FORMAT,
        "segzoo_version": __version__,
        "name": name,
        "version": version,
        "model": {"name": model.model_name, "arguments": model.arguments},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "preprocessing": model.preprocessing.to_dict(),
        "class_names": list(model.class_names),
        "data": model.data,
        **({"started_from": started} if started else {}),
        "metrics": metrics or {},
        "licences": {
            "code": "Apache-2.0",
            "weights": licence or model.licence or training_licence(model.data),
            "data": model.data.get("licence"),
        },
        "sha256": {file: sha256(folder / file) for file in (WEIGHTS, RECIPE) if (folder / file).is_file()},
    }
    write_config(folder, config)


def starting_weights(recipe: Path) -> dict[str, str]:
    """The weights that a training started from: option -> the last name of what it was given, which is of no machine.

    Args:
        recipe: a train.yaml; one of somebody's own layout names none.
    """
    import yaml

    try:
        options = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["init_args"]
        given = {option: Path(str(options[option])) for option in STARTS if options.get(option)}
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return {}
    return {option: path.parent.name if path.name == "checkpoint" else path.name for option, path in given.items()}


def training_licence(data: dict[str, Any]) -> str | None:
    """The licences of all data that a model was trained on, pretraining included."""
    return joined(part.get("licence") for part in (data, *data.get("pretrained_on", [])))


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


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json and the card that is made from it."""
    from segzoo.card import render_card

    text = json.dumps(config, indent=2, ensure_ascii=False, default=plain_number)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    (folder / CARD).write_text(render_card(config), encoding="utf-8")


def plain_number(value: Any) -> int | float:
    """A NumPy or PyTorch scalar as a number of Python's, which is what JSON takes."""
    return value.item()


def record(folder: Path, **entries: Any) -> None:
    """Change entries of a checkpoint's config, such as its metrics, and with them the card."""
    with recording(folder, **entries):
        pass


@contextmanager
def recording(folder: Path, **entries: Any) -> Iterator[Path]:
    """A checkpoint with other entries in its config, which takes the place of ``folder`` if nothing fails meanwhile."""
    config = read_config(folder)
    with replacing(folder) as draft:
        copy_files(folder, draft, config)
        write_config(draft, {**config, **entries})
        yield draft


# ---- files and folders


def file_names(config: dict[str, Any]) -> list[str]:
    """Every file of a checkpoint."""
    return [CARD, CONFIG, *config["sha256"]]


def copy_files(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Copy a checkpoint's files, and no others, into a folder."""
    for name in file_names(config):
        if (source / name).is_file():  # a stranger's may lack the card
            shutil.copyfile(source / name, target / name)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to write a checkpoint into, which takes the place of ``folder`` when all is written.

    What lies in ``folder`` beside the files of its checkpoint comes along. A process killed in between leaves the old
    checkpoint or the new one, complete: see `restore`.

    Raises:
        SegzooError: the folder holds something that is no checkpoint, or the disk cannot be written to.
    """
    folder = folder.resolve()  # a link goes on leading to it, and "." has a name
    restore(folder)
    strangers = entries_beside_checkpoint(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise SegzooError(f"{folder} cannot be made ({error.strerror}); choose another place") from error
    try:
        yield draft
        for entry in strangers:  # copied, so that the old folder stays whole until the new one is
            if (draft / entry.name).exists():
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.copytree(entry, draft / entry.name, symlinks=True)
            else:
                shutil.copy2(entry, draft / entry.name, follow_symlinks=False)
        draft.chmod(0o755)  # mkdtemp's folders are private
        old = aside(folder)
        here = folder.exists() and os.path.samefile(folder, ".")
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        draft.rename(folder)
        if here:
            os.chdir(folder)  # else this process would stay in the old one
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if isinstance(error, SegzooError):
            raise
        restore(folder)
        raise SegzooError(
            f"the checkpoint {folder} could not be written ({error.strerror or error}), and what was there is as it "
            "was; free some space or choose another place, and save again"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def entries_beside_checkpoint(folder: Path) -> list[Path]:
    """What a folder holds besides the files of the checkpoint in it.

    Raises:
        SegzooError: it holds something, and no checkpoint.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    try:
        own = file_names(read_config(folder))
    except SegzooError:  # other programs' settings are called config.json too
        raise SegzooError(f"{folder} holds something that is no checkpoint; save to a new folder") from None
    return [entry for entry in folder.iterdir() if entry.name not in own]


def aside(folder: Path) -> Path:
    """Where a checkpoint lies for the moment in which another takes its place."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.old")


def restore(folder: Path) -> None:
    """Put back a checkpoint whose replacement was killed between the two renamings that it takes."""
    if not folder.exists() and aside(folder).is_dir():
        os.rename(aside(folder), folder)
