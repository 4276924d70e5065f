"""Deterministic splits: the same on every machine, with every version of every library."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segzoo.data.samples import Sample
from segzoo.errors import MissingError, SegzooError

FOLDS = 5
# name -> percentages of validation and test; None: validation is the test part, as in papers without one.
RANDOM_SPLITS: dict[str, tuple[int | None, int]] = {"random-64-16-20": (16, 20), "random-70-30": (None, 30)}
GIVEN = "given"  # by the dataset itself: folders that are called train, val and test, or a table's column
SPLITS = ("grouped", *RANDOM_SPLITS, "all", GIVEN)
PARTS = ("train", "val", "test")
LISTED = "listed"  # what a split is called that a file lists

Split = dict[str, list[str]]


def check_split(split: str, fold: int) -> None:
    """Refuse an unknown split or fold.

    Raises:
        SegzooError: Naming the choices.
    """
    if split not in SPLITS and not is_listed(split):
        raise SegzooError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}, or give a .json file.")
    if not 0 <= fold < FOLDS:
        raise SegzooError(f"There is no fold {fold}; choose one of {', '.join(map(str, range(FOLDS)))}.")
    if split != "grouped" and fold != 0:
        raise SegzooError(f"The split {split!r} has no folds; leave fold at 0 and change the seed instead.")


def name_of(split: str) -> str:
    """Return what a split is called in records, which hold nobody's paths."""
    return LISTED if is_listed(split) else split


def is_listed(split: str) -> bool:
    """Tell whether a split is the file that lists it."""
    return split.endswith(".json")


def make_split(samples: Sequence[Sample], split: str, fold: int, seed: int) -> Split:
    """Divide samples into train, val and test.

    Args:
        samples: All samples of a dataset.
        split: ``grouped``: five folds of whole groups, test = ``fold``, val = the next, train = the rest; images that
            resemble or continue one of val or train are left out of test.
            ``random-64-16-20``, ``random-70-30`` (val = test): by image, blind to groups, as the papers do.
            ``all``: every image in every part. ``given``: as the dataset has it, see `given_parts`. A ``.json`` file:
            as that lists it, see `read_split`.
        fold: 0..4, for ``grouped``.
        seed: Another seed is another split.

    Returns:
        The ids of each part, sorted.

    Raises:
        SegzooError: If split or fold is unknown or there are too few groups or images.
    """
    check_split(split, fold)
    if is_listed(split):
        return read_split(Path(split), [sample.id for sample in samples])
    if split == "grouped":
        folds = group_folds(samples, seed)
        test, val = folds[fold], folds[(fold + 1) % FOLDS]
        train = [i for number, ids in enumerate(folds) if number not in (fold, (fold + 1) % FOLDS) for i in ids]
        test = _without_lookalikes(test, train + val, samples)
    elif split == GIVEN:
        train, val, test = given_parts(samples, seed)
    elif split == "all":
        train = val = test = [sample.id for sample in samples]
    else:
        train, val, test = _random_parts([sample.id for sample in samples], split, seed)
    return {"train": sorted(train), "val": sorted(val), "test": sorted(test)}


def read_split(path: Path, known: Sequence[str]) -> Split:
    """Read the split that a file lists, such as a run's split.json.

    Args:
        path: The file, ``{"ids": {"train": [...], "val": [...], "test": [...]}}``. Images that it does not name are not
            used.
        known: The ids of all images.

    Raises:
        MissingError: If there is no such file.
        SegzooError: If it is not such a list, names an image that is not there, or trains on one that it validates or
            tests on.
    """
    if not path.is_file():
        raise MissingError(f"There is no file {path} to take the split from.")
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["ids"]
        split = {part: sorted({str(name) for name in listed[part]}) for part in PARTS}
    except (ValueError, KeyError, TypeError) as error:
        raise SegzooError(
            f'{path} must hold {{"ids": {{"train": [...], "val": [...], "test": [...]}}}}, lists of names of images '
            "without their suffixes."
        ) from error
    if missing := sorted({name for names in split.values() for name in names} - set(known)):
        more = f", nor are {len(missing) - 1} more" if missing[1:] else ""
        raise SegzooError(f"{path} names the image {missing[0]!r}, which is not in the data{more}.")
    if shared := sorted(set(split["train"]) & {*split["val"], *split["test"]}):
        raise SegzooError(f"{path} trains on {shared[0]!r} and validates or tests on it too; list it once.")
    if not (split["train"] and split["val"] and split["test"]):
        raise SegzooError(f"{path} must name images to train, to validate and to test on.")
    return split


def split_sha256(split: Split) -> str:
    """sha256 of a split's canonical JSON."""
    return hashlib.sha256(json.dumps(split, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def group_folds(samples: Sequence[Sample], seed: int) -> list[list[str]]:
    """Make five lists of ids, no group in two of them, balanced in each stratum and in size.

    The idea is to pack the large pieces while there is room to make up for them: largest groups first (ties in the
    order of their hash), each goes to the fold that holds fewest of its strata.

    Raises:
        SegzooError: If there are fewer than five groups.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    if len(groups) < FOLDS:
        raise SegzooError(
            f"The split 'grouped' needs at least {FOLDS} groups, and these {len(samples)} images make {len(groups)}; "
            f"add images or take another split ({', '.join(SPLITS[1:-1])})."
        )
    folds: list[list[str]] = [[] for _ in range(FOLDS)]
    strata: list[Counter[str]] = [Counter() for _ in range(FOLDS)]
    for name in sorted(_shuffled(groups, seed), key=lambda name: -len(groups[name])):
        own = Counter(sample.stratum for sample in groups[name])
        costs = [(sum(n * strata[f][s] for s, n in own.items()), len(folds[f]), f) for f in range(FOLDS)]
        best = min(costs)[-1]
        folds[best] += [sample.id for sample in groups[name]]
        strata[best] += own
    return folds


def given_parts(samples: Sequence[Sample], seed: int) -> tuple[list[str], list[str], list[str]]:
    """Return the ids to train, validate and test on, as the samples say.

    Where nothing is there to validate on, a fifth of the groups to train on is taken; where nothing is there to test
    on, what validates also tests.

    Raises:
        SegzooError: If samples name no part, none is to train on, or a group is in two parts.
    """
    if silent := [sample.id for sample in samples if not sample.part]:
        raise SegzooError(
            f"The split {GIVEN!r} is that of folders train/, val/ and test/ or of a table's column split, and "
            f"{silent[0]!r} is in no part; take another split ({', '.join(SPLITS[:-1])})."
        )
    parts: dict[str, dict[str, str]] = defaultdict(dict)  # group -> part -> one of its images
    for sample in samples:
        parts[sample.group].setdefault(sample.part, sample.id)
    for group, known in parts.items():
        if len(known) > 1:
            (one, first), (other, second), *_ = known.items()
            raise SegzooError(
                f"The group {group!r} is parted: {first!r} is in {one} and {second!r} in {other}; put a group into one "
                "part, or let --data.split grouped divide the images."
            )
    train, val, test = ([sample for sample in samples if sample.part == part] for part in PARTS)
    if not train:
        raise SegzooError(
            "There are images to validate or to test on and none to train on; add train/, or take --data.split all to "
            "test on all of them."
        )
    if not val:
        chosen = set(group_folds(train, seed)[0])
        train, val = ([sample for sample in train if (sample.id in chosen) == wanted] for wanted in (False, True))
    return [s.id for s in train], [s.id for s in val], [s.id for s in test or val]


def crowded_part(samples: Mapping[str, Sample], split: Split) -> list[str]:
    """Sentence about the largest group, where it makes its part more than half as large again as it should be.

    Args:
        samples: All samples, by their ids.
        split: Parts of them, as of ``grouped``.
    """
    group, images = Counter(sample.group for sample in samples.values()).most_common(1)[0]
    for part, name, folds in (("train", "train", FOLDS - 2), ("val", "validate", 1), ("test", "test", 1)):
        ids, share = split[part], len(samples) * folds / FOLDS
        if any(samples[i].group == group for i in ids) and len(ids) > 1.5 * share and images > share:
            return [
                f"the group {group!r} alone has {images} images, so the part to {name} has {len(ids)}, where "
                f"{share:.0f} would be its share"
            ]
    return []


def _without_lookalikes(test: Sequence[str], others: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    """Leave out of a test part the images that resemble or continue one of another part."""
    lookalikes = {sample.id: sample.lookalikes for sample in samples}
    elsewhere = {lookalikes[i] for i in others} - {""}
    return [i for i in test if lookalikes[i] not in elsewhere]


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Order names by a hash of seed and name: no library's random generator, no file system's order."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(), name))


def _random_parts(ids: Sequence[str], split: str, seed: int) -> tuple[list[str], list[str], list[str]]:
    val_percent, test_percent = RANDOM_SPLITS[split]
    order = _shuffled(ids, seed)
    n_test = _share(len(order), test_percent)
    test, rest = order[:n_test], order[n_test:]
    n_val = 0 if val_percent is None else _share(len(order), val_percent)
    val, train = (test, rest) if val_percent is None else (rest[:n_val], rest[n_val:])
    if not (train and val and test):
        raise SegzooError(f"{len(order)} images are too few for the split {split!r}; add images.")
    return train, val, test


def _share(count: int, percent: int) -> int:
    return (count * percent + 50) // 100  # rounded, in integers
