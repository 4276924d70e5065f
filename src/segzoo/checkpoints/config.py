"""A checkpoint's config.json: read, and checked against the files beside it."""

import json
from pathlib import Path
from typing import Any

from segzoo.checkpoints.weights import sha256
from segzoo.errors import MissingFileError, SegzooError
from segzoo.registry import NOT_ARCHITECTURE

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RECIPE = "train.yaml"
CARD = "README.md"
FORMAT = 1  # of config.json; raised when an older segzoo could no longer read it
FIRST_VERSION = "1.0"


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
        MissingFileError: a file is not there.
    """
    for name in config["sha256"]:
        if not (folder / name).is_file():
            raise MissingFileError(f"the checkpoint {folder} lacks its file {name}; fetch it again")
    return [folder / name for name, expected in config["sha256"].items() if sha256(folder / name) != expected]


def verify_files(folder: Path, config: dict[str, Any]) -> None:
    """Compare every file that config.json lists with its sha256.

    Raises:
        MissingFileError: a file is not there.
        SegzooError: a file is another one than the checkpoint was saved with.
    """
    for file in damaged_files(folder, config):
        raise SegzooError(
            f"{file} is not the file this checkpoint was saved with (its sha256 differs from {CONFIG}): it was changed "
            "or damaged; fetch it again and do not use it"
        )


# ---- files and folders


def file_names(config: dict[str, Any]) -> list[str]:
    """Every file of a checkpoint."""
    return [CARD, CONFIG, *config["sha256"]]


PROBE = "probe.safetensors"
PICTURE = "example.png"


def tag_of(config: dict[str, Any]) -> str:
    """The Hub's tag of a checkpoint's version."""
    return f"v{config.get('version', FIRST_VERSION)}"
