"""What a checkpoint was trained and tested on, in the words of its card: the "data" of its config.json."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class Dataset(NamedTuple):
    """What its images are, the tag of that on the Hub, and where it is published."""

    images: str
    modality: str
    url: str


DATASETS = {
    "BUSI": Dataset("breast ultrasound", "ultrasound", "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset"),
    "KvasirSEG": Dataset("colonoscopy", "endoscopy", "https://datasets.simula.no/kvasir-seg/"),
    "CVCClinicDB": Dataset("colonoscopy", "endoscopy", "https://polyp.grand-challenge.org/CVCClinicDB/"),
    "ISIC2017": Dataset("dermoscopy", "dermoscopy", "https://challenge.isic-archive.com/data/#2017"),
    "DSB2018": Dataset("microscopy of cells", "microscopy", "https://bbbc.broadinstitute.org/BBBC038"),
}
DECATHLON, DECATHLON_TASK = "http://medicaldecathlon.com", r"Task(0[1-9]|10)_[A-Za-z]+"
MODALITIES = {"ct": "ct"} | dict.fromkeys(("mri", "flair", "t1", "t1w", "t1gd", "t2", "t2w", "adc"), "mri")

# What a split's test part is, and is not.
SPLITS = {
    "grouped": "No held-out image is known to be a near copy of one of the others, or of the same video, picture or "
    "subject; where the dataset does not say whose images are whose, a patient may be on both sides.",
    "random-64-16-20": "The split is by image, at random: near copies of held-out images may have been trained on, "
    "which flatters the results.",
    "random-70-30": "The split is by image, at random, so near copies of held-out images may have been trained on, "
    "and the held-out images also chose the best epoch: both flatter the results.",
    "listed": "The split was given as a list: whether its parts share near copies or patients is not known here.",
    "all": "It was tested on the very images it was trained on, so the results say nothing about new ones.",
}


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The datasets of one training, of which `segzoo.data.Joint` has several."""
    return list(data.get("datasets", [data] if data else []))


def history(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The datasets of all trainings."""
    trainings = [config["data"], *config["data"].get("pretrained_on", [])]
    return [part for training in trainings for part in parts_of(training)]


def with_history(data: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What a model is trained on now; under "pretrained_on" what it was trained on before, oldest first."""
    history = list(before.get("pretrained_on", []))
    latest = {key: value for key, value in before.items() if key != "pretrained_on"}
    if latest and latest != data:
        history.append(latest)
    return {**data, "pretrained_on": history} if history else data


def split_hashes(data: dict[str, Any]) -> set[str | None]:
    """By which the splits of all datasets of a training are known again."""
    return {part.get("split_sha256") for part in parts_of(data)}


def same_split(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two datasets are split alike and are the same files, as far as both say."""
    return one.get("split_sha256") == other.get("split_sha256") and agree("files_sha256", one, other)


def same_names(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two datasets are split alike, as far as the names of folder and files tell."""
    return one.get("split_sha256") == other.get("split_sha256") and agree("folder", one, other)


def may_share_images(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two datasets have one name, and folders of somebody's own also one folder's name or the same files."""
    named = one.get("dataset") is not None and one.get("dataset") == other.get("dataset")
    return named and (agree("folder", one, other) or agree("files_sha256", one, other))


def agree(key: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether an entry that both have is the same; checkpoints of older versions of segzoo lack some."""
    return key not in one or key not in other or one[key] == other[key]


def other_splits(tested: dict[str, Any], earlier: list[dict[str, Any]]) -> list[str]:
    """The datasets of a test that were split otherwise in an earlier training, which may have seen its images."""
    alike = [
        (part, [one for one in parts_of(training) if may_share_images(part, one)])
        for part in parts_of(tested)
        for training in earlier
    ]
    return sorted(
        {part["dataset"] for part, found in alike if found and not any(same_split(part, one) for one in found)}
    )


def linked(part: dict[str, Any]) -> str:
    """A dataset's name, linked to its page where that is known."""
    name, page = part.get("dataset", "unknown data"), dataset_page(part)
    return f"{name}" if page is None else f"[{name}]({page})"


def dataset_page(part: dict[str, Any]) -> str | None:
    """Where a dataset is published, if it is."""
    name = str(part.get("dataset"))
    if name in DATASETS:
        return DATASETS[name].url
    return DECATHLON if re.fullmatch(DECATHLON_TASK, name) else None


def modalities(part: dict[str, Any]) -> list[str]:
    """How a dataset's images were made, where that is known."""
    if part.get("dataset") in DATASETS:
        return [DATASETS[part["dataset"]].modality]
    names = [str(name).lower() for name in part.get("channels", [])]
    return sorted({MODALITIES[name] for name in names if name in MODALITIES})


def kind_of_images(part: dict[str, Any]) -> str:
    """Such as "breast ultrasound", or nothing where that is not known."""
    if part.get("dataset") in DATASETS:
        return DATASETS[part["dataset"]].images
    names = [str(name) for name in part.get("channels", [])]
    return ", ".join(names) if modalities(part) else ""


def size_words(data: dict[str, Any]) -> str:
    """How large the images are that were trained and tested on, which may be reduced copies; nothing if not known."""
    sides = [part["longest_side"] for part in parts_of(data) if "longest_side" in part]
    unit = "voxels" if "patch_size" in data else "pixels"
    return f"of at most {max(sides)} {unit} a side" if sides else ""


def dataset_line(part: dict[str, Any]) -> str:
    """A dataset, the size of its images, how it was split, and the hash by which the split is known again."""
    counts, words = part.get("counts", {}), [linked(part)]
    words += [f"images {size}"] if (size := size_words(part)) else []
    words += [f"split `{part['split']}`"] if part.get("split") else []
    words += [f"fold {part['fold']}"] if part.get("split") == "grouped" else []
    line = ", ".join(words)
    if counts:
        line += (
            f": {counts.get('train')} images to train, {counts.get('val')} to choose the best epoch, "
            f"{counts.get('test')} to test"
        )
    known = [f"seed {part['seed']}"] if part.get("seed") is not None else []
    known += [f"sha256 of the split `{part['split_sha256']}`"] if part.get("split_sha256") else []
    return line + (f" ({', '.join(known)})" if known else "")


def held_out(config: dict[str, Any]) -> str:
    """What the images are, and are not, on which the results were measured."""
    data, images = config["data"], config["metrics"].get("images")
    counted = data.get("counts", {}).get("test")
    if images != counted:
        known = "" if counted is None else f": the test part has {counted}"
        return f"It is not recorded on which {images} images the results were measured{known}."
    splits = {str(part.get("split")) for part in parts_of(data)}
    said = []
    if splits != {"all"}:
        said.append(
            f"The {images} held-out images come from the same source as those it was trained on, so the results say "
            "nothing about images from elsewhere."
        )
    said += [words for split, words in SPLITS.items() if split in splits]
    return " ".join([*said, *seen_before(data)])


def seen_before(data: dict[str, Any]) -> list[str]:
    """A warning, where pretraining on another split may have used images of the test part."""
    names = other_splits(data, data.get("pretrained_on", []))
    return (
        [f"It was pretrained on another split of {listed(names)}, so it may have seen some of them."] if names else []
    )


def listed(words: Iterable[str]) -> str:
    """Words as "a", "a and b" or "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
