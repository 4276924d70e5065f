"""DSB 2018: cell nuclei."""

from segzoo.catalogue import DATASETS
from segzoo.data.images import ImageDataModule
from segzoo.data.samples import Sample, paired_samples, with_shipped_lookalikes


class DSB2018(ImageDataModule):
    """2018 Data Science Bowl, stage 1 train: 670 microscopy images with one merged mask of all nuclei.

    Read in the layout of UNet++ and UNeXt, at 96 x 96 in their copy (``dsb2018_96``); each image is a group of its own.
    Many are tiles of one larger picture: the ``grouped`` split tests none that a tile of another part is known to
    continue.

    Layout: ``images/<id>.png``, ``masks/0/<id>.png``.

    Licence: CC0 1.0 (BBBC038v1, Broad Institute). Citation: J. C. Caicedo et al. Nucleus segmentation across imaging
    experiments: the 2018 Data Science Bowl. Nature Methods 16 (2019) 1247-1253.

    Example:
        >>> from segzoo.data import DSB2018
        >>> data = DSB2018(samples, split="random-64-16-20", image_size=96, batch_size=4)
        >>> data.summary()
        ['DSB2018: 8 images: 5 to train, 1 to validate, 2 to test']
        >>> next(iter(data.train_dataloader()))["label"].shape
        torch.Size([4, 96, 96])
    """

    name = "DSB2018"
    class_names = ("background", "nucleus")
    licence, url = DATASETS[name].licence, DATASETS[name].url
    folders = ("dsb2018_96", "DSB2018", "dsb2018", "dsb2018_256")
    layout = ("images", "masks/0")

    def samples(self) -> list[Sample]:
        """List every image with its merged mask."""
        root = self.find_root()
        samples = paired_samples(root / "images", [root / "masks" / "0"], groups={})
        return with_shipped_lookalikes(samples, "dsb2018")
