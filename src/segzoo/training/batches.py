"""Contents of a batch: the zoo's DataModules give all of it, a loader of one's own what its images have."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from segzoo.errors import SegzooError

Batch = dict[str, Any]  # image, label, id and more; see the DataModules


def check_batch(batch: Any, needed: Sequence[str]) -> None:
    """Refuse what is not a dict of at least these tensors.

    Raises:
        SegzooError: a loader of one's own gives something else.
    """
    if isinstance(batch, dict) and all(isinstance(batch.get(name), Tensor) for name in needed):
        return
    given = f"a dict of {', '.join(map(str, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
    raise SegzooError(
        f"the loader's batch is {given}, where the model takes a dict of tensors {' and '.join(needed)}: let the "
        "dataset return such a dict for each image"
    )


def own_labels(batch: Batch) -> Sequence[Tensor]:
    """Return the labels at the images' own sizes where the batch has them, else at the network's."""
    return batch["original_label"] if "original_label" in batch else batch["label"]


def own_grids(batch: Batch) -> Sequence[Any]:
    """Return what leads back to the images' own grids: the geometries of volumes, the sizes of images."""
    if "geometry" in batch:
        return batch["geometry"]
    spatial = batch["image"].ndim - 2
    known = own_labels(batch) if "label" in batch else batch["image"]  # new images have none, and are of that size
    return [one.shape[-spatial:] for one in known]
