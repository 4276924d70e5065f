"""Models of checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from segzoo import limits
from segzoo.checkpoints.fill import LoadReport, fill, read_weights
from segzoo.checkpoints.members import NOT_TRAINED
from segzoo.checkpoints.names import CONFIG, WEIGHTS
from segzoo.checkpoints.opened import Checkpoint, Checkpoints
from segzoo.errors import SegzooError, first_line
from segzoo.hub.find import open_checkpoint
from segzoo.nn.counting import counted_parameters
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.pipeline import Keep, Pipeline, in_memory
from segzoo.prediction.torch_backend import TorchBackend, choose_device, precision_on
from segzoo.registry import create_model, ensemble, require_model
from segzoo.training.callbacks import frozen_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from segzoo.network import SegmentationNetwork

# ---- load


def from_pretrained(
    name_or_path: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    loss: "nn.Module | None" = None,
    optimizer: "Callable[[Iterable], Optimizer] | None" = None,
    lr_scheduler: "Callable[[Optimizer], LRScheduler] | None" = None,
    frozen_epochs: int | Literal["forever"] = 0,
) -> "SegmentationNetwork":
    """Load a checkpoint, in eval mode and float32; what became of each tensor is logged in one line.

    Args:
        name_or_path: a checkpoint's folder; the name of one in ``SEGZOO_HUB``, shipped with segzoo or published by the
            zoo; or ``user/repo`` on the Hub.
        num_classes: another number of classes than the checkpoint's starts with a new head.
        in_channels: another number of channels adapts the first layer.
        revision: a tag, branch or commit on the Hub; None is what segzoo pins, or a stranger's main branch.
        cache_dir: where the Hub's client keeps files; None is its default.
        token: for private repositories; None is that of `hf auth login`.
        local_files_only: never ask the Hub.
        loss: for training it further; None is the architecture's.
        optimizer: likewise.
        lr_scheduler: likewise.
        frozen_epochs: likewise, epochs for which the encoder stays as it is, or "forever".

    Returns:
        The model; its ``load_report`` says which tensors were loaded, adapted, newly initialised or ignored, and what
        vouches for them.

    Raises:
        MissingError: there is no such checkpoint, it lacks a file, or it cannot be fetched.
        SegzooError: a file of it is damaged, was changed, or is not safetensors.

    Example:
        >>> import segzoo
        >>> model = segzoo.from_pretrained("lv-unet-busi")
        >>> model.class_names
        ('background', 'lesion')
    """
    checkpoint = open_checkpoint(
        name_or_path, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
    )
    recipe: dict[str, Any] = {"loss": loss, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    frozen_for(frozen_epochs)  # fails before the weights are read
    model = load(checkpoint, num_classes=num_classes, in_channels=in_channels, **recipe)
    model.frozen_epochs = frozen_epochs
    model.load_report.log()
    return model


def load(
    checkpoint: Checkpoint, *, num_classes: int | None = None, in_channels: int | None = None, **recipe: Any
) -> "SegmentationNetwork":
    """Load a checkpoint that was found, without a word; else as `from_pretrained`.

    Raises:
        SegzooError: its config makes no model, or its weights do not fit that, or are not safetensors.
    """
    folder, config = checkpoint.folder, checkpoint.config
    if not config.members:
        return load_network(checkpoint, WEIGHTS, num_classes, in_channels, recipe)
    changed = {"num_classes": num_classes, "in_channels": in_channels, **recipe}
    if asked := [name for name, value in changed.items() if value is not None]:
        raise SegzooError(f"{folder} takes no {asked[0]}: {NOT_TRAINED}")
    limits.PARAMETERS.check(config.parameters or 0, f"{folder / CONFIG} has")
    members = [load_network(checkpoint, member.weights, None, None, {}) for member in config.members]
    for network, member in zip(members, config.members, strict=True):
        network.data = {**config.data, **member.data}
        network.postprocessing = Postprocessing()  # that of the config is for the mean
    model = ensemble(members)
    give(checkpoint, model)
    model.load_report = LoadReport(str(folder), list(model.state_dict()), trust=checkpoint.trust)
    return model


def load_several(checkpoints: Checkpoints) -> "SegmentationNetwork":
    """Load checkpoints as one network, the mean of theirs; else as `load`."""
    model = ensemble([load(one) for one in checkpoints.members])
    folders = " and ".join(str(one.folder) for one in checkpoints.members)
    trusted = dict.fromkeys(one.trust for one in checkpoints.members)
    left = ["their post-processing, which is none of the mean's, left out"]
    said = [*trusted, *(left if any(one.config.postprocessing for one in checkpoints.members) else [])]
    model.load_report = LoadReport(folders, list(model.state_dict()), trust=", ".join(said))
    return model


def load_network(
    checkpoint: Checkpoint, weights: str, num_classes: int | None, in_channels: int | None, recipe: dict[str, Any]
) -> "SegmentationNetwork":
    """Load a checkpoint's network, or one member of an ensemble: that of a file of weights; else as `load`."""
    folder, config = checkpoint.folder, checkpoint.config
    changed = {"num_classes": num_classes, "in_channels": in_channels}
    arguments = {**config.model.arguments, **{key: value for key, value in changed.items() if value is not None}}
    require_model(config.model.name, config.model.package)
    try:
        with counted_parameters(f"the model of {folder / CONFIG}"):
            model = create_model(config.model.name, **arguments, **recipe)
    except SegzooError:
        raise
    except Exception as error:  # a word where a number should be, a width of -1, and all that comes of such
        reason = first_line(error) or type(error).__name__
        raise SegzooError(
            f"what {folder / CONFIG} says makes no model ({reason}); fetch the checkpoint again"
        ) from error
    model.frozen_epochs = 0  # a new encoder waits for a decoder that starts at random, which this one's does not
    model.load_report = LoadReport(str(folder), trust=checkpoint.trust)
    fill(model, read_weights(folder, config, weights), model.load_report, num_classes, in_channels)
    give(checkpoint, model)
    return model.eval()


def give(checkpoint: Checkpoint, model: "SegmentationNetwork") -> None:
    """Give a model what its config says besides what it is.

    Raises:
        SegzooError: its input contract is none.
    """
    try:
        checkpoint.config.give_to(model)
    except SegzooError as error:
        raise SegzooError(f"{checkpoint.folder / CONFIG} says what no input can be: {error}") from error


# ---- predict


def load_pipeline(
    checkpoint: Checkpoint | Checkpoints,
    device: str = "auto",
    *,
    tta: bool = False,
    overlap: float = 0.5,
    intensity_range: tuple[float, float] | None = None,
    raw: bool = False,
    keep: Keep | None = in_memory,
    doubt: Sequence[str] = (),
    compiled: bool = False,
    precision: str = "auto",
) -> Pipeline:
    """Return the pipeline of a checkpoint's network, deployed.

    Args:
        checkpoint: its files checked; of several the mean.
        device: "cpu", "cuda" (or one of several: "cuda:1"), or "auto" for a GPU where there is one.
        tta: average over mirrored copies.
        overlap: of a volume's windows.
        intensity_range: the stored values that become 0 and 255; None is what the checkpoint says.
        raw: leave out its post-processing.
        keep: makes what holds the probabilities of a volume, as of `Pipeline`.
        doubt: scores that say which predictions to look at first, likewise.
        compiled: compile the network first.
        precision: what it computes in: "float32", "bfloat16", or "auto" for what the device does best.

    Raises:
        SegzooError: the weights cannot be loaded, there is no such device, it has no instructions for the precision, or
            the network cannot be compiled here.
    """
    place = torch.device(choose_device(device))
    model = load(checkpoint) if isinstance(checkpoint, Checkpoint) else load_several(checkpoint)
    network = (model.deploy() if model.is_deployable else model).to(place)
    number = precision_on(place, precision)
    backend = TorchBackend(network, str(model.load_report), precision=number, compiled=compiled)
    return Pipeline(backend, tta=tta, overlap=overlap, intensity_range=intensity_range, raw=raw, keep=keep, doubt=doubt)
