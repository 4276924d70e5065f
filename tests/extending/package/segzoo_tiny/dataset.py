"""A dataset: where its files are, what its classes are, and which image belongs to which masks."""

from segzoo.data import ImageDataModule
from segzoo.data.samples import Sample, paired_samples


class Squares(ImageDataModule):
    """Pictures of squares.

    Layout: ``pictures/<stem>.png`` and ``squares/<stem>.png``, masks of 0 and 255.
    """

    name = "Squares"
    class_names = ("background", "square")
    licence = "CC0-1.0"
    url = ""
    layout = ("pictures", "squares")

    def samples(self) -> list[Sample]:
        """Every picture with its mask; each is a group of its own."""
        root = self.find_root()
        return paired_samples(root / "pictures", [root / "squares"], {})
