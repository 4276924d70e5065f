"""Colonoscopy polyps: Kvasir-SEG and CVC-ClinicDB."""

from segzoo.catalogue import DATASETS
from segzoo.data.images import ImageDataModule
from segzoo.data.samples import Sample, paired_samples, shipped_groups, with_shipped_lookalikes


class KvasirSEG(ImageDataModule):
    """Kvasir-SEG: 1000 colonoscopy images with the mask of their polyps.

    The masks are JPEG and cut at 127. Three pairs of near-identical images stay together in the ``grouped`` split; of
    those that were found later, none is tested while another part has its copy.

    Layout: ``images/<id>.jpg``, ``masks/<id>.jpg``.

    Licence: research and educational use only. Citation: D. Jha, P. H. Smedsrud, M. A. Riegler, P. Halvorsen,
    T. de Lange, D. Johansen, H. D. Johansen. Kvasir-SEG: A Segmented Polyp Dataset. MMM 2020, 451-462.

    Example:
        >>> from segzoo.data import KvasirSEG
        >>> data = KvasirSEG(samples, split="random-64-16-20", image_size=96, batch_size=4)
        >>> data.summary()
        ['KvasirSEG: 8 images: 5 to train, 1 to validate, 2 to test']
        >>> next(iter(data.train_dataloader()))["label"].shape
        torch.Size([4, 96, 96])
    """

    name = "KvasirSEG"
    class_names = ("background", "polyp")
    licence, url = DATASETS[name].licence, DATASETS[name].url
    folders = ("Kvasir-SEG", "kvasir-seg", "Kvasir-SEG/Kvasir-SEG")
    layout = ("images", "masks")

    def samples(self) -> list[Sample]:
        """List every image with the mask of the same name."""
        root = self.find_root()
        samples = paired_samples(root / "images", [root / "masks"], shipped_groups("kvasir_seg"))
        return with_shipped_lookalikes(samples, "kvasir_seg")


class CVCClinicDB(ImageDataModule):
    """CVC-ClinicDB: 612 frames of 29 colonoscopy sequences with the mask of their polyps.

    Frames of one sequence look alike and stay together in the ``grouped`` split. The original TIFFs have a header that
    Pillow rejects: they need ``pip install tifffile`` or a copy saved as PNG in folders of the same names.

    Layout: ``Original/<n>.tif``, ``Ground Truth/<n>.tif`` (or ``.png``).

    Licence: research and educational use only, commercial use forbidden. Citation: J. Bernal, F. J. Sanchez,
    G. Fernandez-Esparrach, D. Gil, C. Rodriguez, F. Vilarino. WM-DOVA maps for accurate polyp highlighting in
    colonoscopy. Computerized Medical Imaging and Graphics 43 (2015) 99-111.

    Example:
        >>> from segzoo.data import CVCClinicDB
        >>> data = CVCClinicDB(samples, split="random-64-16-20", image_size=96, batch_size=4)
        >>> data.summary()
        ['CVCClinicDB: 8 images: 5 to train, 1 to validate, 2 to test']
        >>> next(iter(data.train_dataloader()))["label"].shape
        torch.Size([4, 96, 96])
    """

    name = "CVCClinicDB"
    class_names = ("background", "polyp")
    licence, url = DATASETS[name].licence, DATASETS[name].url
    folders = ("CVC-ClinicDB", "PNG", "TIF", "CVC-ClinicDB/PNG", "CVC-ClinicDB/TIF")
    layout = ("Original", "Ground Truth")

    def samples(self) -> list[Sample]:
        """List every frame with its mask, grouped by sequence."""
        root = self.find_root()
        return paired_samples(root / "Original", [root / "Ground Truth"], shipped_groups("cvc_clinicdb"))
