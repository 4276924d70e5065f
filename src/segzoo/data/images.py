"""Images: base of their datasets, from files to batches, checked and augmented in one way."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from segzoo.data.augmentation import RandomFlipRotate90
from segzoo.data.base import Item, SegmentationDataModule, counted, evaluation_sampler, share_of_worker
from segzoo.data.near_copies import Texture, copies_across, texture
from segzoo.data.samples import Sample, check_sample, read_label
from segzoo.data.splits import PARTS
from segzoo.errors import SegzooError, attempt, first_few, one_sentence
from segzoo.imaging.images import image_size, read_image
from segzoo.preprocessing.base import InputContract
from segzoo.preprocessing.image import Preprocessing, as_range

CACHE_BYTES = 2**30  # resized images and labels kept in memory, for each of train, val and test
LARGE_BYTES = 2**20  # a label of this size at the image's own size is read again rather than kept

READERS = 4  # threads that look at images before a training

Counts = npt.NDArray[np.int64]
Augmentation = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]


class ImageDataModule(SegmentationDataModule):
    """Base of all datasets of images; a subclass names its folders and lists its samples.

    Args:
        root: As of `SegmentationDataModule`.
        image_size: Height and width the network sees; one number means a square. None is what the model in the trainer
            was trained at, which is 256 for a new one.
        mean: Mean of each channel on 0..1; None takes it from the model in the trainer, else ImageNet's.
        std: Standard deviation of each channel, likewise.
        intensity_range: Of images of more than 8 bits, the stored values that become 0 and 255; None takes it from the
            model in the trainer, else the full range of 16 bits.
        augmentation: Callables from (image, mask) to (image, mask), `torchvision.transforms.v2` among them, for
            training; None is random flips and 90-degree rotations, [] is none.
        **kwargs: As of `SegmentationDataModule`.

    Raises:
        SegzooError: If split, fold or a number is out of range, or an augmentation moves images alone.

    Example:
        >>> from segzoo.data import ImageDataModule
        >>> from segzoo.data.samples import paired_samples
        >>> class Lesions(ImageDataModule):
        ...     name, licence, url = "Lesions", "CC0-1.0", ""
        ...     class_names = ("background", "lesion")
        ...     layout = ("images", "masks")
        ...
        ...     def samples(self):
        ...         return paired_samples(self.find_root() / "images", [self.find_root() / "masks"], groups={})
        >>> data = Lesions(samples / "mine", image_size=(32, 64), batch_size=4)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["label"].shape
        (torch.Size([4, 3, 32, 64]), torch.Size([4, 32, 64]))
    """

    compares: ClassVar[bool] = False  # its parts are searched for near copies, which nobody has done before

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        intensity_range: tuple[float, float] | None = None,
        augmentation: list[Callable] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise SegzooError(f"image_size must be one number or a height and a width, not {image_size}.")
        self.mean = mean
        self.std = std
        self.intensity_range = None if intensity_range is None else as_range(intensity_range)
        self.augmentation: list[Callable] = [RandomFlipRotate90()] if augmentation is None else list(augmentation)
        for one in self.augmentation:
            if type(one).__module__ == "torchvision.transforms.transforms":
                raise SegzooError(
                    f"augmentation: {type(one).__name__} of torchvision.transforms takes an image without its mask; "
                    "give that of torchvision.transforms.v2, which moves both alike."
                )

    def check(self, sample: Sample) -> None:
        """Refuse a sample whose files do not fit together, as far as their headers tell."""
        check_sample(sample)

    def size_of(self, sample: Sample) -> tuple[int, ...]:
        """Return height and width of a sample's image, as its header states them."""
        return image_size(sample.image)

    def label_of(self, sample: Sample) -> npt.NDArray[np.int16]:
        """Read a sample's label at its image's own size."""
        return read_label(sample, len(self.class_names), self.multilabel)

    def check_pixels(self, parts: Sequence[str], contract: InputContract) -> list[str]:
        """Decode all images and masks of some parts once: what is damaged is known before the training, not after it.

        Args:
            parts: Among ``train``, ``val`` and ``test``.
            contract: Of the model.

        Returns:
            What is to be said of them, in sentences.

        Raises:
            SegzooError: Naming the first files that cannot be read or used and how many more there are, or nothing is
                marked in any mask of a part.
        """
        samples = {sample.id: sample for part in parts for sample in self.part_samples(part)}
        stated = self.intensity_range or getattr(contract, "intensity_range", None)
        none = counted(self, [])

        def look(sample: Sample) -> tuple[list[tuple[Path, SegzooError]], Counts, Texture | None]:
            image = attempt(read_image, sample.image, contract.channels, stated)
            label = attempt(self.label_of, sample)
            outcomes = (sample.image, image), (sample.masks[0], label)
            refused = [(file, error) for file, error in outcomes if isinstance(error, SegzooError)]
            counts = none if isinstance(label, SegzooError) else counted(self, [label])
            return refused, counts, None if isinstance(image, SegzooError) or not self.compares else texture(image)

        with ThreadPoolExecutor(READERS) as pool:
            looked = dict(zip(samples, pool.map(look, samples.values()), strict=True))
        if refused := [failure for failures, _, _ in looked.values() for failure in failures]:
            raise SegzooError(one_sentence(refused, 2 * len(samples), "images and masks"))
        found = {part: sum((looked[one][1] for one in self.split_ids[part]), start=none) for part in parts}
        ignored = " or is ignored (255)" if len(self.class_names) > 2 and not self.multilabel else ""
        for part in parts:
            if not (found[part][:, 1] if self.multilabel else found[part][1:]).any():
                raise SegzooError(
                    f"{self.name}: all that the masks of the {part} part hold is background{ignored}, so it would "
                    f"{'teach' if part == 'train' else 'measure'} nothing; look at what they are saved as or, where "
                    "few images show anything, split them otherwise."
                )
        self._class_counts = found.get("train", self._class_counts)
        textures = {identifier: seen for identifier, (_, _, seen) in looked.items() if seen is not None}
        return self._near_copies(textures) if self.compares and set(parts) == set(PARTS) else []

    def _near_copies(self, textures: Mapping[str, Texture]) -> list[str]:
        """Warn in a sentence of images that look like one of another part, if there are any."""
        groups = {sample.id: sample.group for sample in self._by_id.values()}
        if not (found := copies_across(textures, self.split_ids, groups)):
            return []
        named = first_few([f"{one} and {other}" for one, other in found])
        return [
            f"{len(found)} images to validate or to test on look nearly like one of another part, so scores may be too "
            f"good: {named}; name what belongs together by --data.groups"
        ]

    @property
    def preprocessing(self) -> Preprocessing:
        """Input contract: size and statistics as given here, else as of the model in the trainer."""
        module = getattr(self.trainer, "lightning_module", None)
        model = getattr(module, "preprocessing", None) or Preprocessing()
        if not isinstance(model, Preprocessing):
            raise SegzooError(f"{self.name} holds 2D images, and the model is one of volumes; build it for 2D images.")
        return Preprocessing(
            channels=model.channels,
            image_size=model.image_size if self.image_size is None else tuple(self.image_size),
            mean=model.mean if self.mean is None else tuple(self.mean),
            std=model.std if self.std is None else tuple(self.std),
            intensity_range=self.intensity_range or model.intensity_range,
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Load the training part, shuffled and augmented, but for a last batch of one, which BatchNorm refuses."""
        dataset = self._dataset("train", self.augmentation)
        if self.preprocessing.image_size is None and self.batch_size > 1:
            raise SegzooError("Images of their own sizes make no batch: give the data an image_size, or batch_size=1.")
        processes = 1 if self.trainer is None else self.trainer.world_size
        images = ceil(len(dataset) / processes)
        return self._loader(dataset, shuffle=True, drop_last=images > 1 and images % self.batch_size == 1)

    def _evaluation_loader(self, part: str) -> DataLoader[Item]:
        dataset = self._dataset(part)
        alone = {"batch_size": 1} if self.preprocessing.image_size is None else {}  # each of a size of its own
        return self._loader(dataset, sampler=evaluation_sampler(self, dataset), **alone)

    def _dataset(self, part: str, augmentation: Sequence[Augmentation] = ()) -> "SegmentationDataset":
        return SegmentationDataset(
            self.part_samples(part),
            self.preprocessing,
            num_classes=len(self.class_names),
            multilabel=self.multilabel,
            augmentation=augmentation,
            originals=part != "train",
            cache_bytes=share_of_worker(CACHE_BYTES, self.num_workers),
        )


class SegmentationDataset(Dataset[Item]):
    """Images and labels of one part of a split.

    Args:
        samples: Samples to read.
        preprocessing: Channels, size and normalisation of the images.
        num_classes: Number of class names.
        multilabel: Each class has a mask of its own.
        augmentation: Applied in order to image and label, before normalisation.
        originals: Give the label at the image's own size too, as ``original_label``.
        cache_bytes: Memory for what was read and resized.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        *,
        num_classes: int,
        multilabel: bool = False,
        augmentation: Sequence[Augmentation] = (),
        originals: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        self.samples = list(samples)
        self.preprocessing = preprocessing
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.augmentation = list(augmentation)
        self.originals = originals
        self.cache_bytes = cache_bytes
        self._cache: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        image, label, original = self._read(index)
        label = label.long()  # before augmentation, where not every transform knows int16
        if self.augmentation:
            image, label = self._augment(image, label)
        item: Item = {
            "image": self.preprocessing.normalize(image),
            "label": label.float() if self.multilabel else label,
            "id": self.samples[index].id,
        }
        if self.originals:
            original = self._read_label(index) if original is None else original
            item["original_label"] = original.float() if self.multilabel else original.long()
        return item

    def _read(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read image [C, *S], int16 label [*S] or [K, *S] and, unless too large to keep, the label at its own size.

        Augmentations take images of 8 bits, so the image is rounded to uint8 for these, and else float32.
        """
        if index in self._cache:
            return self._cache[index]
        contract = self.preprocessing
        image = contract.resize(read_image(self.samples[index].image, contract.channels, contract.intensity_range))
        if self.augmentation:
            image = image.round_().clamp_(0, 255).to(torch.uint8)
        original = self._read_label(index)
        label = resize_label(original, image.shape[1:])
        kept = original if self.originals and original.nbytes < LARGE_BYTES else None
        size = image.nbytes + label.nbytes + (0 if kept is None else kept.nbytes)
        if self._cached_bytes + size <= self.cache_bytes:
            self._cache[index] = image, label, kept
            self._cached_bytes += size
        return image, label, original

    def _read_label(self, index: int) -> Tensor:
        return torch.from_numpy(read_label(self.samples[index], self.num_classes, self.multilabel))

    def _augment(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        moved = (
            tv_tensors.Image(image.clone()),
            tv_tensors.Mask(label),
        )  # some transforms work in place: not on the cache
        for augmentation in self.augmentation:
            moved = augmentation(*moved)
        image, label = (x.as_subclass(Tensor) for x in moved)
        if image.dtype != torch.uint8:
            raise SegzooError(
                f"Augmentation must leave images as 8-bit intensities, not {image.dtype}: normalisation comes after it."
            )
        return image, label


def resize_label(label: Tensor, size: Sequence[int]) -> Tensor:
    """Resize class indices by nearest-exact, which invents no class.

    Args:
        label: ``[H, W]`` or ``[K, H, W]``.
        size: The height and width to reach.

    Returns:
        The same dtype, ``[*size]`` or ``[K, *size]``.
    """
    if label.shape[-2:] == tuple(size):
        return label
    channels = label[None] if label.ndim == 3 else label[None, None]
    resized = F.interpolate(channels.float(), size=list(size), mode="nearest-exact").to(label.dtype)
    return resized[0] if label.ndim == 3 else resized[0, 0]
