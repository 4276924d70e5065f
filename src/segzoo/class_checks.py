"""Whether the classes of a model and of the data that it is to learn or to be tested on are the same."""

from typing import TYPE_CHECKING, Any

from segzoo.errors import SegzooError
from segzoo.tasks import default_class_names

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule


def check_classes(model: "SegmentationModule", datamodule: Any, stage: str) -> None:
    """Refuse data whose classes are not the model's: those that are in neither would count as found.

    Args:
        model: with the class names that it has learned, if it has.
        datamodule: with ``class_names`` and ``multilabel``.
        stage: Lightning's; only "fit" may give the classes another order.

    Raises:
        SegzooError: the data has another number of classes than the model, or is to score it by another order.
    """
    names, multilabel = tuple(datamodule.class_names), bool(datamodule.multilabel)
    binary = len(names) == 2 and model.num_classes == 1 and not multilabel
    named = model.class_names != default_class_names(model.num_classes, model.multilabel)
    given = f"--data.class_names '[{','.join(model.class_names)}]'"
    if (binary or len(names) == model.num_classes) and multilabel == model.multilabel:
        moved = [name for name, own in zip(names, model.class_names, strict=False) if name != own]
        if stage != "fit" and named and set(moved) & set(model.class_names):
            raise SegzooError(
                f"{type(datamodule).__name__} has the classes in the order {', '.join(names)}, and the model as "
                f"{', '.join(model.class_names)}, so that one would be scored as another; give the data the order "
                f"of the model, of a Folder by {given}"
            )
        return
    kind = "multi-label" if multilabel else "one label a pixel"
    given += "" if multilabel == model.multilabel else f" --data.multilabel {str(model.multilabel).lower()}"
    advice = f"give the data the classes of the model, of a Folder by {given}"
    wanted = f"num_classes={1 if len(names) == 2 and not multilabel else len(names)}"
    if stage == "fit" and not named:
        advice = f"build it with {wanted}, multilabel={multilabel}"
    elif stage == "fit" and multilabel == model.multilabel:
        advice += f", or the model those of the data by {wanted}"
    raise SegzooError(
        f"{type(datamodule).__name__} has the classes {', '.join(names)} ({kind}), the model has "
        f"num_classes={model.num_classes}, multilabel={model.multilabel}; {advice}"
    )
