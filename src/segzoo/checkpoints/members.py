"""Members of an ensemble: the networks whose mean it is, as its config.json lists them, and what they must share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.checkpoints.facts import refuse_strange_data, require_objects
from segzoo.errors import SegzooError
from segzoo.tasks import Task

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

NOT_TRAINED = (
    "an ensemble is not trained further; start from one of its members: "
    "segzoo.from_pretrained(ENSEMBLE).members[0].save_pretrained(FOLDER), then --model FOLDER"
)


@dataclass(frozen=True)
class Member:
    """Entry of a member.

    Attributes:
        weights: its file.
        data: what is said of its training besides what is said of all.
    """

    weights: str
    data: dict[str, Any] = field(default_factory=dict)


def member_file(number: int) -> str:
    """Return the name of a member's weights; ``number`` counts from 1.

    Example:
        >>> from segzoo.checkpoints.members import member_file
        >>> member_file(1)
        'member-1.safetensors'
    """
    return f"member-{number}.safetensors"


def members_entry(model: "SegmentationNetwork") -> list[dict[str, Any]]:
    """Return what config.json says of a model's members; nothing of one that has none."""
    said = [
        {key: value for key, value in member.data.items() if key not in model.data or model.data[key] != value}
        for member in model.members
    ]
    return [{"weights": member_file(number), "data": data} for number, data in enumerate(said, start=1)]


def common(data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several descriptions say alike.

    Example:
        >>> from segzoo.checkpoints.members import common
        >>> common([{"dataset": "BUSI", "fold": 0}, {"dataset": "BUSI", "fold": 1}])
        {'dataset': 'BUSI'}
    """
    first, *others = data
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def require_alike(described: Sequence[tuple[str, Task, Sequence[str], Mapping[str, Any]]]) -> None:
    """Refuse members whose probabilities have no mean, since they are of other classes or of other images.

    Args:
        described: name, task, names of the classes and input contract of each.

    Raises:
        SegzooError: naming the first two that differ, and in what.
    """
    first, *others = described
    if not others:
        raise SegzooError("an ensemble is the mean of at least two networks; use a single one as it is")
    for other in others:
        for what, one, another in differences(first[1:], other[1:]):
            raise SegzooError(
                f"{first[0]} and {other[0]} cannot be averaged, since they differ in {what}: {one} and {another}; take "
                "members that were trained for the same classes on images that are prepared alike"
            )


def differences(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """Return in what two members differ, with what each says: classes, or parts of the contract."""
    found = [("task", repr(one[0]), repr(other[0])), ("classes", list(one[1]), list(other[1]))]
    found += [("the values of regions", list(one[0].region_values), list(other[0].region_values))]
    found += [(key, one[2].get(key), other[2].get(key)) for key in {**one[2], **other[2]}]
    return [(what, here, there) for what, here, there in found if here != there]


def refuse_strange_members(where: str | Path, members: Any) -> None:
    """Refuse entries that name no weights, or the same ones twice.

    Raises:
        SegzooError: saying so.
    """
    require_objects(where, "members", members)
    files = [member.get("weights") for member in members]
    if not all(isinstance(file, str) and file.endswith(".safetensors") for file in files):
        raise SegzooError(f"{where} must give each member its file of weights, not {str(files)[:100]}; fetch it again")
    if len(files) < 2 or len(set(files)) < len(files):
        raise SegzooError(f"{where} must list at least two members, each once, not {str(files)[:100]}; fetch it again")
    for member in members:
        data = member.get("data", {})
        if not isinstance(data, dict):
            raise SegzooError(f"{where} must give a member's data as an object, not as {str(data)[:100]!r}")
        refuse_strange_data(where, data)
