"""Save a model as a checkpoint folder.

It holds ``config.json`` (what the model is and how it wants its images), ``model.safetensors``, ``README.md`` (the Hub
card) and, for published ones, ``train.yaml``, ``probe.safetensors`` and a picture; a prediction depends on nothing
else. That of an ensemble holds a file of weights for each member in place of the one, and always a probe.
"""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segzoo.checkpoints.card import render_card
from segzoo.checkpoints.config import Config, read_config
from segzoo.checkpoints.entries import Licences
from segzoo.checkpoints.fill import at_least_float32
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.folder import copy_files, replacing
from segzoo.checkpoints.folder_config import FIRST_VERSION
from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.members import member_file
from segzoo.checkpoints.names import CARD, CONFIG, PROBE, RECIPE, WEIGHTS
from segzoo.checkpoints.probe import write_probe
from segzoo.checkpoints.provenance import trainings
from segzoo.checkpoints.weights import sha256, write_safetensors
from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.network import SegmentationNetwork


STARTS = ("encoder_weights", "upkern_from", "name_or_path")  # options of a recipe that name weights to start from


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
        raise SegzooError(
            "only an ensemble of one architecture, with the same arguments, can be saved; keep its members apart, and "
            "average them when they predict"
            if model.members
            else "only a model built by segzoo.create_model can be saved, since its name is what is recorded"
        )
    name = name or folder.resolve().name
    networks = {member_file(number): member for number, member in enumerate(model.members, start=1)} or {WEIGHTS: model}
    tensors = {file: stored_tensors(network, dtype) for file, network in networks.items()}
    for file, state in tensors.items():
        whose = "this model" if file == WEIGHTS else f"what is to be {file}"
        require_finite(state, whose if dtype is None else f"{whose} in {dtype}")
    with replacing(folder) as draft:
        for file, state in tensors.items():
            write_safetensors(state, draft / file)
        if model.members:
            write_probe_of_mean(draft, model, list(tensors.values()))
        if train_config is not None:
            shutil.copyfile(train_config, draft / RECIPE)
        weights = licence or model.licence or joined(part.get("licence") for part in trainings(model.data))
        config = Config.of(
            model,
            name=name,
            version=version,
            started_from=starting_weights(draft / RECIPE) if train_config is not None else {},
            metrics=metrics or {},
            licences=Licences("Apache-2.0", weights, model.data.get("licence")),
            sha256={file: sha256(draft / file) for file in (*networks, RECIPE, PROBE) if (draft / file).is_file()},
        )
        write_config(draft, config)
    return folder


def starting_weights(recipe: Path) -> dict[str, str]:
    """Read which weights a training started from: option -> the last name of what it was given, which is of no machine.

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


def stored_tensors(model: "SegmentationNetwork", dtype: str | None) -> "dict[str, Tensor]":
    """Return the state dict as it goes to disk."""
    if dtype not in (None, "float16"):
        raise SegzooError(f"a checkpoint is stored as it is or in float16, not in {dtype!r}")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if dtype is None:
        return state
    return {
        name: value.half() if value.ndim >= 2 and value.is_floating_point() else value for name, value in state.items()
    }


def write_probe_of_mean(folder: Path, model: "SegmentationNetwork", stored: "list[dict[str, Tensor]]") -> None:
    """Write what an ensemble computes of noise, as it is stored: its images may be somebody's own.

    Args:
        folder: the checkpoint's.
        model: stays as it is and where it is.
        stored: the tensors of each member.
    """
    loaded = copy.deepcopy(model, {id(model._trainer): None, id(model._fabric): None})
    loaded.to(memory_format=torch.contiguous_format)  # as of what is loaded
    for member, state in zip(loaded.members, stored, strict=True):
        member.load_state_dict({name: at_least_float32(value) for name, value in state.items()})
    write_probe(folder, loaded, torch.from_numpy(model.preprocessing.noise()))


def write_config(folder: Path, config: Config) -> None:
    """Write config.json and the card that is made from it."""
    (folder / CONFIG).write_text(config.text(), encoding="utf-8")
    (folder / CARD).write_text(render_card(config), encoding="utf-8")


def record(folder: Path, **entries: Any) -> None:
    """Change entries of a checkpoint's config, such as its metrics, and with them the card."""
    with recording(folder, **entries):
        pass


@contextmanager
def recording(folder: Path, **entries: Any) -> Iterator[Path]:
    """Make a checkpoint with other entries in its config, which takes the place of ``folder`` if nothing fails."""
    config = read_config(folder)
    with replacing(folder) as draft:
        copy_files(folder, draft, config)
        write_config(draft, config.changed(**entries))
        yield draft
