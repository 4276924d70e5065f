"""BUSI: breast ultrasound."""

import re
from pathlib import Path
from typing import Any

from segzoo.catalogue import DATASETS
from segzoo.data.images import ImageDataModule
from segzoo.data.samples import Sample, files_by_stem, shipped_groups, with_shipped_lookalikes
from segzoo.errors import MissingError

_MASK_NAME = re.compile(r"(?P<stem>.+)_mask(_\d+)?")


class BUSI(ImageDataModule):
    """Breast ultrasound images: 437 benign, 210 malignant and 133 normal, each with the masks of its lesions.

    The default is the 647 images with a lesion. An image's several masks are merged. Near duplicates (the dataset is
    known for them) stay together in the ``grouped`` split, or are left out of its test part.

    Layout: ``Dataset_BUSI_with_GT/<class>/<class> (N).png``, ``<class> (N)_mask.png``, ``<class> (N)_mask_1.png`` ...

    Licence: CC0 1.0. Citation: W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy. Dataset of breast ultrasound images.
    Data in Brief 28 (2020) 104863.

    Args:
        root: ``Dataset_BUSI_with_GT`` or a folder above it.
        normal: Add the 133 images without a lesion (their masks are empty).
        **kwargs: As of `ImageDataModule`.

    Example:
        >>> from segzoo.data import BUSI
        >>> data = BUSI(samples, image_size=256, batch_size=4)
        >>> data.summary()
        ['BUSI: 8 images in 8 groups: 4 to train, 2 to validate, 2 to test']
        >>> batch = next(iter(data.val_dataloader()))
        >>> batch["image"].shape, batch["id"]
        (torch.Size([2, 3, 256, 256]), ['benign (84)', 'malignant (21)'])
    """

    name = "BUSI"
    class_names = ("background", "lesion")
    licence, url = DATASETS[name].licence, DATASETS[name].url
    folders = ("Dataset_BUSI_with_GT", "BUSI/Dataset_BUSI_with_GT", "BUSI")
    layout = ("benign", "malignant")

    def __init__(self, root: str | Path, *, normal: bool = False, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.normal = normal

    def samples(self) -> list[Sample]:
        """List the images of the chosen classes, each with all its masks."""
        root, groups = self.find_root(), shipped_groups("busi")
        classes = ("benign", "malignant", "normal") if self.normal else ("benign", "malignant")
        samples = [sample for name in classes for sample in _class_samples(root / name, groups)]
        return with_shipped_lookalikes(samples, "busi")

    def describe(self) -> dict[str, Any]:
        """Add to what the base says whether normal images are in."""
        return super().describe() | {"normal": self.normal}


def _class_samples(folder: Path, groups: dict[str, str]) -> list[Sample]:
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    for stem, path in files_by_stem(folder).items():
        match = _MASK_NAME.fullmatch(stem)
        if match:
            masks.setdefault(match["stem"], []).append(path)
        else:
            images[stem] = path
    for stem, image in images.items():
        if stem not in masks:
            raise MissingError(f"Image {image} has no mask: expected {folder / stem}_mask.png.")
    return [
        Sample(stem, image, tuple(masks[stem]), groups.get(stem, stem), stratum=folder.name)
        for stem, image in images.items()
    ]
