"""Datasets as LightningDataModules; `Folder` for a user's own.

In the examples of their docstrings, ``samples`` is a folder that holds some images or volumes of each.
"""

from segzoo.data.base import SegmentationDataModule
from segzoo.data.busi import BUSI
from segzoo.data.chase import CHASEDB1
from segzoo.data.decathlon import Decathlon
from segzoo.data.dsb import DSB2018
from segzoo.data.folder import Folder
from segzoo.data.images import ImageDataModule
from segzoo.data.isic import ISIC2017
from segzoo.data.joint import Joint
from segzoo.data.polyps import CVCClinicDB, KvasirSEG
from segzoo.data.volume_augmentation import VolumeAugmentation
from segzoo.data.volumes import VolumeDataModule

__all__ = [
    "BUSI",
    "CHASEDB1",
    "DSB2018",
    "ISIC2017",
    "CVCClinicDB",
    "Decathlon",
    "Folder",
    "ImageDataModule",
    "Joint",
    "KvasirSEG",
    "SegmentationDataModule",
    "VolumeAugmentation",
    "VolumeDataModule",
]
