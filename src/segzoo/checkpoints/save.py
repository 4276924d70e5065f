"""Save a model as a checkpoint folder.

It holds ``config.json`` (what the model is and how it wants its images), ``model.safetensors``, ``README.md`` (the Hub
card) and, for published ones, ``train.yaml``, ``probe.safetensors`` and a picture; a prediction depends on nothing
else.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.checkpoints.card import render_card
from segzoo.checkpoints.config import FIRST_VERSION, Config, read_config
from segzoo.checkpoints.entries import Licences
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.folder import copy_files, replacing
from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.names import CARD, CONFIG, RECIPE, WEIGHTS
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
        raise SegzooError("only a model built by segzoo.create_model can be saved, since its name is what is recorded")
    name = name or folder.resolve().name
    tensors = stored_tensors(model, dtype)
    require_finite(tensors, "this model" if dtype is None else f"this model in {dtype}")
    with replacing(folder) as draft:
        write_safetensors(tensors, draft / WEIGHTS)
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
            sha256={file: sha256(draft / file) for file in (WEIGHTS, RECIPE) if (draft / file).is_file()},
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
