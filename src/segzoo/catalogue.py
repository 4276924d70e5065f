"""Facts of the public datasets, in one place: the DataModules and the model cards read them here."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple


class Dataset(NamedTuple):
    """Public dataset.

    Attributes:
        images: of what, in words.
        modality: the tag of that on the Hub.
        licence: in SPDX's spelling.
        url: where it is published.
    """

    images: str
    modality: str
    licence: str
    url: str


CC0, RESEARCH = "CC0-1.0", "LicenseRef-research-and-education-only"
DATASETS = {
    "BUSI": Dataset("breast ultrasound", "ultrasound", CC0, "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset"),
    "KvasirSEG": Dataset("colonoscopy", "endoscopy", RESEARCH, "https://datasets.simula.no/kvasir-seg/"),
    "CVCClinicDB": Dataset("colonoscopy", "endoscopy", RESEARCH, "https://polyp.grand-challenge.org/CVCClinicDB/"),
    "ISIC2017": Dataset("dermoscopy", "dermoscopy", CC0, "https://challenge.isic-archive.com/data/#2017"),
    "CHASEDB1": Dataset("fundus photography", "fundus", "CC-BY-4.0", "https://researchdata.kingston.ac.uk/96/"),
    "DSB2018": Dataset("microscopy of cells", "microscopy", CC0, "https://bbbc.broadinstitute.org/BBBC038"),
}
DECATHLON, DECATHLON_TASK = "http://medicaldecathlon.com", r"Task(0[1-9]|10)_[A-Za-z]+"
LIMITS = {  # of what is trained on a dataset; of the hippocampi measured by benchmarks/orientation.py
    "Task04_Hippocampus": "MONAI's model-zoo #766 reports images of the Decathlon whose anatomy is stored the wrong "
    "way round, left-right and front-back. On validation volumes reversed so under an unchanged header the zoo's "
    "hippocampus checkpoints fell from a mean Dice of 0.89 and 0.88 (kernels 3 and 5) to 0.28 and 0.22, and reversed "
    "left-right alone, as they were mirrored in training, to 0.88: look at the "
    "orientation of what you give it.",
    "ACDC_half": "Nothing says how large the voxels of its data are, nor which way the hearts lie. The originals have "
    "pixels of about 1.4 to 1.7 mm and slices 5 to 10 mm apart, and these have half as many pixels along each side: "
    "bring images to about 3 mm in plane, turned as those of ACDC are, whatever their headers say.",
}
MODALITIES = {"ct": "ct"} | dict.fromkeys(("mri", "cine-mri", "flair", "t1", "t1w", "t1gd", "t2", "t2w", "adc"), "mri")


def dataset_page(part: dict[str, Any]) -> str | None:
    """Return where a dataset is published, if it is."""
    name = str(part.get("dataset"))
    if name in DATASETS:
        return DATASETS[name].url
    return DECATHLON if re.fullmatch(DECATHLON_TASK, name) else None


def known_limit(part: dict[str, Any]) -> str:
    """Say what was found to go wrong with what is trained on a dataset; "" where nothing was."""
    return LIMITS.get(str(part.get("dataset")), "")


def modalities(part: dict[str, Any]) -> list[str]:
    """Say how a dataset's images were made, where that is known."""
    if part.get("dataset") in DATASETS:
        return [DATASETS[part["dataset"]].modality]
    names = [str(name).lower() for name in part.get("channels", [])]
    return sorted({MODALITIES[name] for name in names if name in MODALITIES})


def kind_of_images(part: dict[str, Any]) -> str:
    """Name what the images show, such as "breast ultrasound"; "" where that is not known."""
    if part.get("dataset") in DATASETS:
        return DATASETS[part["dataset"]].images
    names = [str(name) for name in part.get("channels", [])]
    return ", ".join(names) if modalities(part) else ""


def finding(classes: Sequence[str], part: dict[str, Any]) -> str:
    """Say what is found in what, such as "lesion in breast ultrasound"; only what is found where no more is known.

    Args:
        classes: names of those that are found.
        part: description of the data that was trained on, of several datasets with their names joined.
    """
    several = [{**part, "dataset": name} for name in str(part.get("dataset")).split(" + ")]
    kinds = dict.fromkeys(filter(None, map(kind_of_images, several)))
    return " in ".join([", ".join(classes), *([" and ".join(kinds)] if kinds else [])])


# ---- what classes are, in words that other programs know


class Concept(NamedTuple):
    """Code of a terminology, as DICOM has it.

    Attributes:
        value: such as "52988006".
        scheme: "SCT" for SNOMED CT, "DCM" for DICOM's own.
        meaning: in words.
    """

    value: str
    scheme: str
    meaning: str


class Codes(NamedTuple):
    """Codes of a class.

    Attributes:
        category: kind of thing (DICOM's CID 7150).
        type: what it is.
        modifier: which part of it, or None.
    """

    category: Concept
    type: Concept
    modifier: Concept | None = None


ANATOMY = Concept("91723000", "SCT", "Anatomical Structure")
ABNORMAL = Concept("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Concept("85756007", "SCT", "Tissue")
HIPPOCAMPUS = Concept("5366008", "SCT", "Hippocampus")
POLYP = Codes(ABNORMAL, Concept("68496003", "SCT", "Polyp of colon"))
RETINAL_VESSEL = Codes(ANATOMY, Concept("59820001", "SCT", "Blood Vessel"), Concept("5665001", "SCT", "Retina"))
SOMETHING = Codes(TISSUE, TISSUE)  # where nothing better is known
CODES = {  # by the name of a class, in small letters
    "lesion": Codes(ABNORMAL, Concept("52988006", "SCT", "Lesion")),
    "nucleus": Codes(ANATOMY, Concept("84640000", "SCT", "Nucleus")),
    "right ventricle": Codes(ANATOMY, Concept("53085002", "SCT", "Right ventricle")),
    "myocardium": Codes(ANATOMY, Concept("74281007", "SCT", "Myocardium")),
    "left ventricle": Codes(ANATOMY, Concept("87878005", "SCT", "Left ventricle")),
}
CODES_OF_DATA = {  # by dataset and class, where the name alone says too little
    ("KvasirSEG", "polyp"): POLYP,
    ("CVCClinicDB", "polyp"): POLYP,
    ("CHASEDB1", "vessel"): RETINAL_VESSEL,
    ("Task04_Hippocampus", "anterior"): Codes(ANATOMY, HIPPOCAMPUS, Concept("255549009", "SCT", "Anterior")),
    ("Task04_Hippocampus", "posterior"): Codes(ANATOMY, HIPPOCAMPUS, Concept("255551008", "SCT", "Posterior")),
}
