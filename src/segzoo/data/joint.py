"""Several datasets as one, to pretrain on all of them before fine-tuning on one."""

from dataclasses import replace
from typing import Any, Self

from segzoo.data.base import SegmentationDataModule
from segzoo.data.images import ImageDataModule
from segzoo.data.samples import Sample
from segzoo.errors import SegzooError


class Joint(ImageDataModule):
    """Binary datasets side by side, under one class-agnostic head: "object" is whatever each of them outlines.

    One head rather than one a dataset, since a fine-tuned model keeps one: what the decoder learns of closed,
    textured regions then carries over whole, and the loss needs no routing. Every dataset keeps its own split, so a
    model pretrained here has not seen the validation and test images of any of them, as long as the fine-tuning uses
    the same split, fold and seed.

    Args:
        datasets: The datasets, each with its own root and split; their image sizes and batch sizes are not used.
        **kwargs: As of `ImageDataModule`, but for root, split, fold and seed.

    Raises:
        SegzooError: If there is no dataset, or one that is not binary.

    Example:
        >>> from segzoo.data import BUSI, ISIC2017, Joint
        >>> data = Joint([BUSI(samples), ISIC2017(samples)], image_size=64)
        >>> len(data.split_ids["train"]), data.split_ids["test"][0]
        (8, '0-BUSI/benign (190)')
    """

    name = "Joint"
    class_names = ("background", "object")
    licence = "that of its datasets"
    url = ""

    def __init__(self, datasets: list[SegmentationDataModule], **kwargs: Any) -> None:
        super().__init__(".", **kwargs)
        for dataset in datasets:
            if dataset.multilabel or len(dataset.class_names) != 2:
                raise SegzooError(
                    f"Joint takes binary datasets, and {dataset.name} has the classes {', '.join(dataset.class_names)}."
                )
        if not datasets:
            raise SegzooError("Joint needs at least one dataset; give it a list.")
        self.datasets = datasets

    def samples(self) -> list[Sample]:
        """List every dataset's samples, their ids and groups prefixed by the dataset's number and name."""
        return [
            replace(sample, id=self._prefix(number) + sample.id, group=self._prefix(number) + sample.group)
            for number, dataset in enumerate(self.datasets)
            for sample in dataset.samples()
        ]

    def setup(self, stage: str | None = None) -> None:
        """Set up every dataset and put their splits together."""
        if self._samples is not None:
            return
        for dataset in self.datasets:
            dataset.setup(stage)
        self._samples = {sample.id: sample for sample in self.samples()}
        self._split = {
            part: sorted(
                self._prefix(number) + identifier
                for number, dataset in enumerate(self.datasets)
                for identifier in dataset.split_ids[part]
            )
            for part in ("train", "val", "test")
        }

    def folds(self) -> list[Self]:
        """Return nothing: each dataset has folds of its own."""
        return []

    def split_record(self) -> dict[str, Any]:
        """Say how each dataset is split, which its own options decide."""
        records = [dataset.split_record() for dataset in self.datasets]
        return {"name": self.name, "datasets": records, "sha256": self.split_sha256}

    def summary(self) -> list[str]:
        """Collect what each dataset says of itself."""
        return [sentence for dataset in self.datasets for sentence in dataset.summary()]

    def describe(self) -> dict[str, Any]:
        """Collect what each dataset says of itself, and the counts and hash of the joint split."""
        own = super().describe()
        return {
            "dataset": " + ".join(dataset.name for dataset in self.datasets),
            **{key: own[key] for key in ("split_sha256", "counts", "image_size")},
            "licence": " + ".join(sorted({dataset.licence for dataset in self.datasets})),
            "datasets": [  # but for image sizes of their own, which are not used
                {key: value for key, value in dataset.describe().items() if key != "image_size"}
                for dataset in self.datasets
            ],
        }

    def _prefix(self, number: int) -> str:
        return f"{number}-{self.datasets[number].name}/"
