"""Base of all datasets: files found, split and described in one way; images.py and volumes.py make batches of them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, Sampler

from segzoo.data.balance import balanced_weights, class_counts, share_words
from segzoo.data.foldable import Foldable
from segzoo.data.samples import Sample
from segzoo.data.splits import Split, check_split, crowded_part, make_split, name_of, split_sha256
from segzoo.errors import MissingError, SegzooError, attempt, one_sentence
from segzoo.paths import write_whole
from segzoo.preprocessing.base import InputContract

Item = dict[str, Any]

LOOKED_AT = 16  # labels by which shares of classes are said where reading all of them takes long


class SegmentationDataModule(Foldable, LightningDataModule):
    """Base of all datasets; one of images starts from `ImageDataModule`, one of volumes from `VolumeDataModule`.

    Args:
        root: The dataset's folder or its parent.
        split: ``grouped`` (five folds of whole groups), or the papers' plain random ``random-64-16-20`` or
            ``random-70-30``; the latter validates on the test images, as those papers do. ``all`` puts every image in
            every part: for testing on data the model has never seen, and for overfitting on purpose. A ``.json`` file
            such as the split.json of a run: the images that it lists for each part, and no others.
        fold: Test fold of ``grouped``, 0..4; the next one validates.
        batch_size: Images in a batch.
        num_workers: Processes that load images; 0 loads in the main process.
        seed: Seed of the split; the order of training and the augmentation follow torch's own.
        class_weights: ``balanced`` lets the loss weigh every class by how rare it is in the training part, so that all
            count the same; None weighs pixels alike.

    Raises:
        SegzooError: If split, fold or a number is out of range.

    Example:
        >>> from segzoo.data import BUSI
        >>> data = BUSI(samples, fold=1, batch_size=4)
        >>> {part: len(ids) for part, ids in data.split_ids.items()}
        {'train': 5, 'val': 1, 'test': 2}
        >>> data.describe()["licence"]
        'CC0-1.0'
    """

    name: str
    class_names: tuple[str, ...]
    multilabel: bool = False
    licence: str
    url: ClassVar[str]
    formats: ClassVar[str] = "png, jpg, tif, bmp"
    folders: ClassVar[tuple[str, ...]] = ()  # where, below its parent, the dataset is looked for
    layout: ClassVar[tuple[str, ...]]  # the folders that make it up, or patterns of files where there are none

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "grouped",
        fold: int = 0,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 42,
        class_weights: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        check_split(split, fold)
        if batch_size < 1 or num_workers < 0:
            raise SegzooError(f"batch_size must be at least 1 and num_workers 0, not {batch_size} and {num_workers}.")
        if class_weights not in (None, "balanced"):
            raise SegzooError(f"class_weights must be 'balanced' or left out, not {class_weights!r}.")
        self.root = Path(root)
        self.split = split
        self.fold = fold
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.class_weights = class_weights
        self._samples: dict[str, Sample] | None = None
        self._split: Split | None = None
        self._class_counts: npt.NDArray[np.int64] | None = None  # of the training part, once all of it was read

    # -- for the subclasses to say -------------------------------------------------------------------------------

    def samples(self) -> list[Sample]:
        """List every sample of the dataset, reading names only."""
        raise NotImplementedError

    def check(self, sample: Sample) -> None:
        """Refuse a sample whose files do not fit together, as far as their headers tell."""
        raise NotImplementedError

    def label_of(self, sample: Sample) -> npt.NDArray[np.int16]:
        """Read a sample's label ``[*S]`` or, if `multilabel`, ``[K, *S]`` at its own size, negative where ignored."""
        raise NotImplementedError

    def check_pixels(self, parts: Sequence[str], contract: InputContract) -> list[str]:
        """Decode parts once, where that takes little time, and say in sentences what is odd before the training."""
        return []

    @property
    def preprocessing(self) -> InputContract:
        """Input contract: what was asked for here, and for the rest that of the model in the trainer."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Item]:
        """Load the training part, shuffled and augmented."""
        raise NotImplementedError

    def _evaluation_loader(self, part: str) -> DataLoader[Item]:
        raise NotImplementedError

    # -- where it is and what it holds ---------------------------------------------------------------------------

    def find_root(self) -> Path:
        """Return the folder that holds the dataset's own folders: ``root`` or one below it.

        Raises:
            MissingError: Saying which layout is expected.
        """
        for folder in (self.root, *(self.root / name for name in self.folders)):
            if all(any(folder.glob(part)) if "*" in part else (folder / part).is_dir() for part in self.layout):
                return folder
        wanted = " and ".join(part if "*" in part else f"{part}/" for part in self.layout)
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
        checked = [(sample.image, attempt(self.check, sample)) for sample in samples]
        if refused := [(image, error) for image, error in checked if error is not None]:
            raise SegzooError(one_sentence(refused, len(samples), "images"))
        self._split = make_split(samples, self.split, self.fold, self.seed)
        self._samples = {sample.id: sample for sample in samples}

    @property
    def split_ids(self) -> Split:
        """Ids of train, val and test, sorted."""
        self.setup()
        assert self._split is not None
        return self._split if self._tested is None else {**self._split, "test": self._tested}

    @property
    def _by_id(self) -> dict[str, Sample]:
        self.setup()
        assert self._samples is not None
        return self._samples

    def part_samples(self, part: str) -> list[Sample]:
        """List the samples of train, val or test, in the order of `split_ids`."""
        return [self._by_id[identifier] for identifier in self.split_ids[part]]

    def used_samples(self) -> list[Sample]:
        """List the samples that are in any part, by their ids."""
        used = {identifier for ids in self.split_ids.values() for identifier in ids}
        return [self._by_id[identifier] for identifier in sorted(used)]

    @property
    def split_sha256(self) -> str:
        """Hash (sha256) of the canonical JSON of `split_ids`."""
        return split_sha256(self.split_ids)

    def write_split(self, path: str | Path) -> None:
        """Write the split as JSON: name, split, fold, seed, sha256 and the ids of each part."""
        content = {**self.split_record(), "ids": self.split_ids}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())

    def size_of(self, sample: Sample) -> tuple[int, ...]:
        """Return the sides of a sample's image or volume, as its header states them; each base says how."""
        raise NotImplementedError

    def loss_weights(self) -> npt.NDArray[np.float32] | None:
        """Return the weights of the classes that ``class_weights`` asks for; reads all labels of the training part.

        Returns:
            ``[K]``, in multi-label ``[K, 2]``: of pixels without and with the class. None where nothing was asked for.

        Raises:
            SegzooError: The training part lacks a class.
        """
        if self.class_weights is None:
            return None
        if self._class_counts is None:
            self._class_counts = counted(self, map(self.label_of, self.part_samples("train")))
        return balanced_weights(self._class_counts, self.class_names)

    def split_record(self) -> dict[str, Any]:
        """Say how the split was made, and by what it is known again."""
        self.setup()  # what there is may decide how it is split
        return {
            "name": self.name,
            "split": name_of(self.split),
            "fold": self.fold,
            "seed": self.seed,
            "sha256": self.split_sha256,
        }

    def describe(self) -> dict[str, Any]:
        """Say what a checkpoint's config.json keeps of its data."""
        contract = self.preprocessing.to_dict()
        self.setup()  # what there is may decide how it is split
        return {
            "dataset": self.name,
            "split": name_of(self.split),
            "fold": self.fold,
            "seed": self.seed,
            "split_sha256": self.split_sha256,
            "counts": {part: len(ids) for part, ids in self.split_ids.items()},
            # of images as they are stored here, which may be reduced copies
            "longest_side": max(side for sample in self._by_id.values() for side in self.size_of(sample)),
            "licence": self.licence,
            **{key: contract[key] for key in ("image_size", "patch_size") if key in contract},
        }

    def summary(self) -> list[str]:
        """Say what was found and how it is divided, in sentences for whoever starts a training."""
        groups = len({sample.group for sample in self._by_id.values()})
        grouped = self.split == "grouped"
        found = f"{len(self._by_id)} images" + (f" in {groups} groups" if grouped else "")
        counts = {part: len(ids) for part, ids in self.split_ids.items()}
        line = (
            f"{self.name}: {found}: {counts['train']} to train, {counts['val']} to validate, {counts['test']} to test"
        )
        left_out = len(self._by_id) - len(self.used_samples())
        if left_out and grouped:
            line += f", {left_out} left out of the test since another part resembles or continues them"
        elif left_out:
            line += f", {left_out} that the list does not name"
        return [line, *(crowded_part(self._by_id, self.split_ids) if grouped else [])]

    # -- loaders -------------------------------------------------------------------------------------------------

    def val_dataloader(self) -> DataLoader[Item]:
        """Load the validation part, each sample once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """Load the test part, each sample once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """Load the test part, each sample once."""
        return self._evaluation_loader("test")

    def _loader(self, dataset: Dataset[Item], **options: Any) -> DataLoader[Item]:
        defaults: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": collate,
        }
        return DataLoader(dataset, **(defaults | options))


def counted(data: SegmentationDataModule, labels: Iterable[npt.NDArray[np.int16]]) -> npt.NDArray[np.int64]:
    """Count the pixels of each class in labels of a dataset, as `class_counts` does."""
    return class_counts(labels, len(data.class_names), data.multilabel)


def class_shares(data: SegmentationDataModule) -> str:
    """Say which share of a training part each class has: of all of it where its labels were read, else of some.

    Raises:
        SegzooError: A label cannot be used.
    """
    samples, counts = data.part_samples("train"), data._class_counts
    if counts is not None:
        return share_words(counts, data.class_names)
    some = samples[:: -(-len(samples) // LOOKED_AT)]
    of_some = f" (in {len(some)} of {len(samples)})" if len(some) < len(samples) else ""
    return share_words(counted(data, map(data.label_of, some)), data.class_names) + of_some


def evaluation_sampler(data: SegmentationDataModule, dataset: Dataset[Item]) -> Sampler[int] | None:
    """Sampler that shares samples out among the processes of a training, none of them twice; None for one process.

    Lightning's own choice would repeat samples to give every process as many, and so change the metrics.

    Args:
        data: Dataset that is evaluated.
        dataset: One part of it.

    Raises:
        SegzooError: If there are fewer samples than processes.
    """
    if data.trainer is None or data.trainer.world_size == 1:
        return None
    count, processes = len(dataset), data.trainer.world_size  # type: ignore[arg-type]
    if count < processes:
        raise SegzooError(
            f"{data.name}: {count} images to validate or test on are too few for {processes} processes; use at most "
            f"{count} devices."
        )
    return UnrepeatedDistributedSampler(dataset, num_replicas=processes, rank=data.trainer.global_rank, shuffle=False)


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Stack images and labels; ids and labels of the images' own sizes stay lists."""
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    return batch | {"image": torch.stack(batch["image"]), "label": torch.stack(batch["label"])}


def share_of_worker(cache_bytes: int, num_workers: int) -> int:
    """Return a worker's share of the memory for what was read: each worker keeps what it reads itself."""
    return cache_bytes // max(1, num_workers)
