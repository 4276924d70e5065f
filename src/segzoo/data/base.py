"""The base of all datasets: files to batches, split, checked and augmented in one way."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from segzoo.data.augmentation import RandomFlipRotate90
from segzoo.data.samples import Sample, check_sample, read_label
from segzoo.data.splits import FOLDS, LISTED, Split, check_split, is_listed, make_split, split_sha256
from segzoo.errors import MissingError, SegzooError, attempt
from segzoo.io import image_size, read_image
from segzoo.preprocessing import Preprocessing

CACHE_BYTES = 2**30  # resized images and labels kept in memory, for each of train, val and test
LARGE_BYTES = 2**20  # a label of this size at the image's own size is read again rather than kept

Item = dict[str, Any]
Augmentation = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]


class SegmentationDataset(Dataset[Item]):
    """Images and labels of one part of a split.

    Args:
        samples: What to read.
        preprocessing: Channels, size and normalisation of the images.
        num_classes: Number of class names.
        multilabel: Whether each class has a mask of its own.
        augmentation: Applied in order to image and label, before normalisation.
        originals: Give the label at the image's own size too, as ``original_label``.
        cache_bytes: What was read and resized is kept in memory, up to so much.
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
        """Image [C, *S], int16 label [*S] or [K, *S] and, unless too large to keep, the label at its own size.

        Augmentations take images of 8 bits, so the image is rounded to uint8 for these, and else float32.
        """
        if index in self._cache:
            return self._cache[index]
        image = self.preprocessing.resize(read_image(self.samples[index].image, self.preprocessing.channels))
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


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Stack images and labels; ids and labels of the images' own sizes stay lists."""
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    return batch | {"image": torch.stack(batch["image"]), "label": torch.stack(batch["label"])}


class SegmentationDataModule(LightningDataModule):
    """Base of all datasets; a subclass names its folders and lists its samples.

    Args:
        root: The dataset's folder or its parent.
        split: ``grouped`` (five folds of whole groups), or the papers' plain random ``random-64-16-20`` or
            ``random-70-30``; the latter validates on the test images, as those papers do. ``all`` puts every image in
            every part: for testing on data that no part of was trained on, and for overfitting on purpose. A ``.json``
            file such as the split.json of a run: the images that it lists for each part, and no others.
        fold: Test fold of ``grouped``, 0..4; the next one validates.
        image_size: Height and width the network sees; one number means a square. None is what the model in the trainer
            was trained at, which is 256 for a new one.
        batch_size: Images in a batch.
        num_workers: Processes that load images; 0 loads in the main process.
        seed: Seed of the split; the order of training and the augmentation follow torch's own.
        mean: Mean of each channel on 0..1; None takes it from the model in the trainer, else ImageNet's.
        std: Standard deviation of each channel, likewise.
        augmentation: Callables from (image, mask) to (image, mask), `torchvision.transforms.v2` among them, for
            training; None is random flips and 90-degree rotations, [] is none.

    Raises:
        SegzooError: If split, fold or a number is out of range, or an augmentation moves images alone.
    """

    name: str
    class_names: tuple[str, ...]
    multilabel: bool = False
    licence: str
    url: ClassVar[str]
    formats: ClassVar[str] = "png, jpg, tif, bmp"
    folders: ClassVar[tuple[str, ...]] = ()  # where, below its parent, the dataset is looked for
    layout: ClassVar[tuple[str, ...]]  # the folders that make it up

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "grouped",
        fold: int = 0,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 42,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        augmentation: list[Callable] | None = None,
    ) -> None:
        super().__init__()
        check_split(split, fold)
        if batch_size < 1 or num_workers < 0:
            raise SegzooError(f"batch_size must be at least 1 and num_workers 0, not {batch_size} and {num_workers}.")
        self.root = Path(root)
        self.split = split
        self.fold = fold
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise SegzooError(f"image_size must be one number or a height and a width, not {image_size}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.mean = mean
        self.std = std
        self.augmentation: list[Callable] = [RandomFlipRotate90()] if augmentation is None else list(augmentation)
        for one in self.augmentation:
            if type(one).__module__ == "torchvision.transforms.transforms":
                raise SegzooError(
                    f"augmentation: {type(one).__name__} of torchvision.transforms takes an image without its mask; "
                    "give that of torchvision.transforms.v2, which moves both alike."
                )
        self._samples: dict[str, Sample] | None = None
        self._split: Split | None = None

    def samples(self) -> list[Sample]:
        """List every sample of the dataset, reading names only; each subclass says how."""
        raise NotImplementedError

    def check(self, sample: Sample) -> None:
        """Refuse a sample whose files do not fit together, as far as their headers tell."""
        check_sample(sample)

    def check_pixels(self, part: str, channels: int) -> None:
        """Decode all images and masks of a part once: what is damaged is known before the training, not after it.

        Args:
            part: ``train``, ``val`` or ``test``.
            channels: Of the images, as the model takes them.

        Raises:
            SegzooError: Naming every file that cannot be read or used, or nothing is marked in any mask.
        """
        refused, marked = [], False
        for identifier in self.split_ids[part]:
            assert self._samples is not None
            sample = self._samples[identifier]
            image = attempt(read_image, sample.image, channels)
            label = attempt(read_label, sample, len(self.class_names), self.multilabel)
            refused += [str(error).rstrip(".") for error in (image, label) if isinstance(error, SegzooError)]
            marked = marked or (not isinstance(label, SegzooError) and bool((label > 0).any()))
        if refused:
            raise SegzooError(f"{self.name}: the {part} part cannot be read: {'; '.join(refused)}.")
        if not marked:
            ignored = " or is ignored (255)" if len(self.class_names) > 2 and not self.multilabel else ""
            raise SegzooError(
                f"{self.name}: all that the masks of the {part} part hold is background{ignored}, so it would measure "
                "nothing; look at what they are saved as or, where few images show anything, split them otherwise."
            )

    # -- where it is and what it holds ---------------------------------------------------------------------------

    def find_root(self) -> Path:
        """The folder that holds the dataset's own folders: ``root`` or one below it.

        Raises:
            MissingError: Saying which layout is expected.
        """
        for folder in (self.root, *(self.root / name for name in self.folders)):
            if all((folder / part).is_dir() for part in self.layout):
                return folder
        wanted = " and ".join(f"{part}/" for part in self.layout)
        places = " or ".join(["it", *(f"its {name}/" for name in self.folders)])
        state = "does not hold the dataset" if self.root.is_dir() else "does not exist"
        raise MissingError(f"{self.name}: the folder {self.root} {state}: expected {wanted} in {places}.")

    def setup(self, stage: str | None = None) -> None:
        """Find and check all files and split them; cheap to call again.

        Raises:
            MissingError: If the folder, its images or a mask are not there.
            SegzooError: If a mask is of another size than its image or there are too few groups.
        """
        if self._samples is not None:
            return
        samples = self.samples()
        if not samples:
            raise MissingError(f"{self.name}: there are no images ({self.formats}) in {self.find_root()}.")
        for sample in samples:
            self.check(sample)
        self._split = make_split(samples, self.split, self.fold, self.seed)
        self._samples = {sample.id: sample for sample in samples}

    @property
    def split_ids(self) -> Split:
        """The ids of train, val and test, sorted."""
        self.setup()
        assert self._split is not None
        return self._split

    def used_samples(self) -> list[Sample]:
        """The samples that are in any part, by their ids."""
        used = {identifier for ids in self.split_ids.values() for identifier in ids}
        assert self._samples is not None
        return [self._samples[identifier] for identifier in sorted(used)]

    @property
    def split_sha256(self) -> str:
        """sha256 of the canonical JSON of `split_ids`."""
        return split_sha256(self.split_ids)

    def write_split(self, path: str | Path) -> None:
        """Write the split as JSON: name, split, fold, seed, sha256 and the ids of each part."""
        content = {**self.split_record(), "ids": self.split_ids}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @property
    def split_name(self) -> str:
        """What the split is called in records, which hold nobody's paths."""
        return LISTED if is_listed(self.split) else self.split

    @property
    def longest_side(self) -> int:
        """The longest side of any image as it is stored here, which may be a reduced copy, in pixels or voxels."""
        self.setup()
        assert self._samples is not None
        return max(side for sample in self._samples.values() for side in self.size_of(sample))

    def size_of(self, sample: Sample) -> tuple[int, ...]:
        """Height and width of a sample's image, as its header states them."""
        return image_size(sample.image)

    def split_record(self) -> dict[str, Any]:
        """How the split was made, and by what it is known again."""
        return {
            "name": self.name,
            "split": self.split_name,
            "fold": self.fold,
            "seed": self.seed,
            "sha256": self.split_sha256,
        }

    def describe(self) -> dict[str, Any]:
        """What a checkpoint's config.json says about its data."""
        contract = self.preprocessing.to_dict()
        return {
            "dataset": self.name,
            "split": self.split_name,
            "fold": self.fold,
            "seed": self.seed,
            "split_sha256": self.split_sha256,
            "counts": {part: len(ids) for part, ids in self.split_ids.items()},
            "longest_side": self.longest_side,
            "licence": self.licence,
            **{key: contract[key] for key in ("image_size", "patch_size") if key in contract},
        }

    def summary(self) -> list[str]:
        """What was found and how it is divided, in sentences for whoever starts a training."""
        parts = self.split_ids
        assert self._samples is not None
        groups = Counter(sample.group for sample in self._samples.values())
        grouped = self.split == "grouped"
        found = f"{len(self._samples)} images" + (f" in {len(groups)} groups" if grouped else "")
        counts = {part: len(ids) for part, ids in parts.items()}
        line = (
            f"{self.name}: {found}: {counts['train']} to train, {counts['val']} to validate, {counts['test']} to test"
        )
        left_out = len(self._samples) - len(self.used_samples())
        if left_out and grouped:
            line += f", {left_out} left out of the test since another part resembles or continues them"
        elif left_out:
            line += f", {left_out} that the list does not name"
        if not grouped:
            return [line]
        return [line, *self._crowded_part(*groups.most_common(1)[0])]

    def _crowded_part(self, group: str, images: int) -> list[str]:
        """A sentence, where the largest group makes its part more than half as large again as it should be."""
        assert self._samples is not None
        for part, folds in (("train", FOLDS - 2), ("validate", 1), ("test", 1)):
            ids, share = self.split_ids["val" if part == "validate" else part], len(self._samples) * folds / FOLDS
            if any(self._samples[i].group == group for i in ids) and len(ids) > 1.5 * share and images > share:
                return [
                    f"the group {group!r} alone has {images} images, so the part to {part} has {len(ids)}, where "
                    f"{share:.0f} would be its share"
                ]
        return []

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become input: size and statistics as given here, else as of the model in the trainer."""
        module = getattr(self.trainer, "lightning_module", None)
        model = getattr(module, "preprocessing", None) or Preprocessing()
        if not isinstance(model, Preprocessing):
            raise SegzooError(f"{self.name} holds 2D images, and the model is one of volumes; build it for 2D images.")
        return Preprocessing(
            channels=model.channels,
            image_size=model.image_size if self.image_size is None else tuple(self.image_size),
            mean=model.mean if self.mean is None else tuple(self.mean),
            std=model.std if self.std is None else tuple(self.std),
        )

    # -- loaders -------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled and augmented; a last batch of one image, on which BatchNorm may not train, is dropped."""
        dataset = self._dataset("train", self.augmentation)
        if self.preprocessing.image_size is None and self.batch_size > 1:
            raise SegzooError("Images of their own sizes make no batch: give the data an image_size, or batch_size=1.")
        images = ceil(len(dataset) / self._world_size)
        return self._loader(dataset, shuffle=True, drop_last=images > 1 and images % self.batch_size == 1)

    def val_dataloader(self) -> DataLoader[Item]:
        """The validation images, each once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """The test images, each once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """The test images, each once."""
        return self._evaluation_loader("test")

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _dataset(self, part: str, augmentation: Sequence[Augmentation] = ()) -> SegmentationDataset:
        ids = self.split_ids[part]
        assert self._samples is not None
        return SegmentationDataset(
            [self._samples[i] for i in ids],
            self.preprocessing,
            num_classes=len(self.class_names),
            multilabel=self.multilabel,
            augmentation=augmentation,
            originals=part != "train",
            cache_bytes=self._share_of_worker(CACHE_BYTES),
        )

    def _share_of_worker(self, cache_bytes: int) -> int:
        """Of the memory for what was read: each worker keeps what it reads itself."""
        return cache_bytes // max(1, self.num_workers)

    def _evaluation_loader(self, part: str) -> DataLoader[Item]:
        dataset = self._dataset(part)
        alone = {"batch_size": 1} if self.preprocessing.image_size is None else {}  # each of a size of its own
        return self._loader(dataset, sampler=self._evaluation_sampler(dataset), **alone)

    def _evaluation_sampler(self, dataset: Dataset[Item]) -> Sampler[int] | None:
        if self._world_size == 1 or self.trainer is None:
            return None
        count = len(dataset)  # type: ignore[arg-type]
        if count < self._world_size:
            raise SegzooError(
                f"{self.name}: {count} images to validate or test on are too few for {self._world_size} processes; "
                f"use at most {count} devices."
            )
        # Lightning's own choice would repeat images to give every process as many, and so change the metrics.
        return UnrepeatedDistributedSampler(
            dataset, num_replicas=self._world_size, rank=self.trainer.global_rank, shuffle=False
        )

    def _loader(self, dataset: Dataset[Item], **options: Any) -> DataLoader[Item]:
        defaults: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": collate,
        }
        return DataLoader(dataset, **(defaults | options))
