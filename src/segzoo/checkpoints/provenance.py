"""Comparison of what checkpoints were trained and tested on: of DataModules' descriptions, "data" in config.json."""

from collections.abc import Iterable
from typing import Any


def parts_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the datasets of one training, of which `segzoo.data.Joint` has several."""
    return list(data.get("datasets", [data] if data else []))


def trainings(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the data of all trainings, the last one's first."""
    return [data, *data.get("pretrained_on", [])]


def with_history(data: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return what a model is trained on now; under "pretrained_on" what it was trained on before, oldest first."""
    history = list(before.get("pretrained_on", []))
    latest = {key: value for key, value in before.items() if key != "pretrained_on"}
    if latest and latest != data:
        history.append(latest)
    return {**data, "pretrained_on": history} if history else data


def split_hashes(data: dict[str, Any]) -> set[str | None]:
    """Return the hashes by which the splits of a training's datasets are known again."""
    return {part.get("split_sha256") for part in parts_of(data)}


def same_split(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two datasets are split alike and are the same files, as far as both say."""
    return one.get("split_sha256") == other.get("split_sha256") and agree("files_sha256", one, other)


def same_names(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two datasets are split alike, as far as the names of folder and files tell."""
    return one.get("split_sha256") == other.get("split_sha256") and agree("folder", one, other)


def may_share_images(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two datasets have one name and, of folders of one's own, one folder's name or the same files."""
    named = one.get("dataset") is not None and one.get("dataset") == other.get("dataset")
    return named and (agree("folder", one, other) or agree("files_sha256", one, other))


def agree(key: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether an entry that both have is the same; checkpoints of older versions of segzoo lack some."""
    return key not in one or key not in other or one[key] == other[key]


def other_splits(tested: dict[str, Any], earlier: list[dict[str, Any]]) -> list[str]:
    """Return the datasets of a test that an earlier training, which may have seen their images, split otherwise."""
    alike = [
        (part, [one for one in parts_of(training) if may_share_images(part, one)])
        for part in parts_of(tested)
        for training in earlier
    ]
    return sorted(
        {part["dataset"] for part, found in alike if found and not any(same_split(part, one) for one in found)}
    )


def seen_before(data: dict[str, Any]) -> list[str]:
    """Return a warning, where pretraining on another split may have used images of the test part."""
    names = other_splits(data, data.get("pretrained_on", []))
    return (
        [f"It was pretrained on another split of {listed(names)}, so it may have seen some of them."] if names else []
    )


def size_words(data: dict[str, Any]) -> str:
    """Say how large the images are that were trained and tested on, which may be reduced copies; "" if not known."""
    sides = [part["longest_side"] for part in parts_of(data) if "longest_side" in part]
    unit = "voxels" if "patch_size" in data else "pixels"
    return f"of at most {max(sides)} {unit} a side" if sides else ""


def listed(words: Iterable[str]) -> str:
    """Return words as "a", "a and b" or "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
