"""CHASE_DB1: vessels of the retina."""

import re
from pathlib import Path
from typing import Any, Literal

from segzoo.catalogue import DATASETS
from segzoo.data.images import ImageDataModule
from segzoo.data.samples import Sample, files_by_stem
from segzoo.errors import MissingError, SegzooError

_PHOTOGRAPH = re.compile(r"Image_(?P<child>\d+)[LR]")
_READERS = {1: "1stHO", 2: "2ndHO"}


class CHASEDB1(ImageDataModule):
    """CHASE_DB1: photographs of both retinas of 14 children, 999x960 pixels, whose vessels two readers have drawn.

    Both eyes of a child stay together in the ``grouped`` split. Vessels are a few pixels wide, so they are trained on
    in crops: `torchvision.transforms.v2.RandomCrop` first among the augmentations, at an `image_size` near the images'
    own, which is then segmented in one piece.

    Layout: ``Image_<n>L.jpg``, ``Image_<n>R.jpg``, ``Image_<n>L_1stHO.png``, ``Image_<n>L_2ndHO.png`` ...

    Licence: CC BY 4.0. Citation: M. M. Fraz et al. An Ensemble Classification-Based Approach Applied to Retinal Blood
    Vessel Segmentation. IEEE Transactions on Biomedical Engineering 59 (2012) 2538-2548.

    Args:
        root: The folder of the photographs, or its parent.
        reader: Whose vessels are the truth: those of the first reader, as in papers, or of the second.
        **kwargs: As of `ImageDataModule`.

    Raises:
        SegzooError: If there is no such reader.

    Example:
        >>> from torchvision.transforms import v2
        >>> from segzoo.data import CHASEDB1
        >>> data = CHASEDB1(samples, image_size=(48, 64), batch_size=4, augmentation=[v2.RandomCrop(32)])
        >>> data.summary()
        ['CHASEDB1: 8 images in 5 groups: 4 to train, 2 to validate, 2 to test']
        >>> next(iter(data.train_dataloader()))["label"].shape, next(iter(data.test_dataloader()))["label"].shape
        (torch.Size([4, 32, 32]), torch.Size([2, 48, 64]))
    """

    name = "CHASEDB1"
    class_names = ("background", "vessel")
    licence, url = DATASETS[name].licence, DATASETS[name].url
    folders = ("CHASE_DB1", "CHASEDB1")
    layout = ("Image_*_1stHO.png",)

    def __init__(self, root: str | Path, *, reader: Literal[1, 2] = 1, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if reader not in _READERS:
            raise SegzooError(f"reader must be 1 or 2, not {reader!r}.")
        self.reader = reader

    def samples(self) -> list[Sample]:
        """List every photograph with the vessels that the reader has drawn, grouped by child."""
        root = self.find_root()
        files = files_by_stem(root)
        found = []
        for stem, image in files.items():
            if not (photograph := _PHOTOGRAPH.fullmatch(stem)):
                continue
            mask = f"{stem}_{_READERS[self.reader]}"
            if mask not in files:
                raise MissingError(f"Image {image} has no mask: expected {root / mask}.png.")
            found.append(Sample(stem, image, (files[mask],), f"child {photograph['child']}"))
        return found

    def describe(self) -> dict[str, Any]:
        """Add to what the base says whose vessels are the truth."""
        return super().describe() | {"reader": self.reader}
