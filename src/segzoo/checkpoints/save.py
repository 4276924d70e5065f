"""Save a model as a checkpoint folder.

It holds ``config.json`` (what the model is and how it wants its images), ``model.safetensors``, ``README.md`` (the Hub
card) and, for published ones, ``train.yaml``, ``probe.safetensors`` and a picture; a prediction depends on nothing
else.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.checkpoints.config import (
    CARD,
    CONFIG,
    FIRST_VERSION,
    FORMAT,
    RECIPE,
    WEIGHTS,
    read_config,
    refuse_strange_classes,
)
from segzoo.checkpoints.folder import copy_files, replacing
from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.weights import sha256
from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.network import SegmentationNetwork


STARTS = ("encoder_weights", "upkern_from", "name_or_path")  # options of a recipe that name weights to start from


# ---- save


def save_pretrained(
    model: "SegmentationNetwork",
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
    model: "SegmentationNetwork",
    folder: Path,
    name: str,
    version: str,
    dtype: str | None,
    train_config: str | Path | None,
    metrics: dict[str, Any] | None,
    licence: str | None,
) -> None:
    """Write the files of a checkpoint into an empty folder."""
    from segzoo.checkpoints.weights import write_safetensors

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


def stored_tensors(model: "SegmentationNetwork", dtype: str | None) -> "dict[str, Tensor]":
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
    from segzoo.checkpoints.card import render_card

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
