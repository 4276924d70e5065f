"""ISIC 2017: skin lesions."""

from segzoo.catalogue import DATASETS
from segzoo.data.images import ImageDataModule
from segzoo.data.samples import Sample, paired_samples, shipped_groups, with_shipped_lookalikes

_IMAGES = "ISIC-2017_Training_Data"
_MASKS = "ISIC-2017_Training_Part1_GroundTruth"


class ISIC2017(ImageDataModule):
    """ISIC 2017 challenge, part 1: dermoscopy images of the published training set (2000) with their lesion's mask.

    What is there is read, be it the whole set or not. Known pairs of near-identical images stay together in the
    ``grouped`` split, or are left out of its test part.

    Layout: ``ISIC-2017_Training_Data/ISIC_<n>.jpg`` (the ``_superpixels.png`` beside them are skipped),
    ``ISIC-2017_Training_Part1_GroundTruth/ISIC_<n>_segmentation.png``.

    Licence: CC0 1.0. Citation: N. C. F. Codella et al. Skin Lesion Analysis Toward Melanoma Detection: A Challenge at
    the 2017 ISBI, hosted by ISIC. arXiv:1710.05006.

    Example:
        >>> from segzoo.data import ISIC2017
        >>> data = ISIC2017(samples, split="random-64-16-20", image_size=96, batch_size=4)
        >>> data.summary()
        ['ISIC2017: 8 images: 5 to train, 1 to validate, 2 to test']
        >>> next(iter(data.train_dataloader()))["label"].shape
        torch.Size([4, 96, 96])
    """

    name = "ISIC2017"
    class_names = ("background", "lesion")
    licence, url = DATASETS[name].licence, DATASETS[name].url
    folders = ("ISIC2017", "ISIC-2017", "ISIC_2017", "isic2017")
    layout = (_IMAGES, _MASKS)

    def samples(self) -> list[Sample]:
        """List every image with its mask; no superpixels."""
        root, groups = self.find_root(), shipped_groups("isic2017")
        samples = paired_samples(
            root / _IMAGES, [root / _MASKS], groups, mask_suffix="_segmentation", skip="_superpixels"
        )
        return with_shipped_lookalikes(samples, "isic2017")
