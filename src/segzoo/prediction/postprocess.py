"""Post-processing: named steps from a segmentation to another mask, such as its largest component alone.

None is applied unless it is asked for. A package adds one by an entry point of the group ``segzoo.postprocessing``.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from segzoo.errors import MissingError, SegzooError
from segzoo.extensions import Table
from segzoo.imaging.segmentation import Segmentation

# from mask, probabilities, class names and grid to a mask of the same shape and type
Step: TypeAlias = Callable[[Segmentation], np.ndarray]

POSTPROCESSING: Table[Step] = Table("postprocessing", {})


def chosen(steps: Sequence[str | Step]) -> list[Step]:
    """Return steps, those given by name from the table.

    Raises:
        MissingError: there is no step of this name.
    """
    for name in steps:
        if isinstance(name, str) and name not in list(POSTPROCESSING):
            known = ", ".join(POSTPROCESSING) or "there are none"
            raise MissingError(f"there is no post-processing step {name!r}; known: {known}")
    return [POSTPROCESSING[step] if isinstance(step, str) else step for step in steps]


def checked(step: Step, found: Segmentation) -> np.ndarray:
    """Return the mask that a step makes of a segmentation.

    Raises:
        SegzooError: it is of another shape or type than the one before.
    """
    mask = step(found)
    if mask.shape != found.mask.shape or mask.dtype != found.mask.dtype:
        name = getattr(step, "__name__", type(step).__name__)
        raise SegzooError(
            f"the post-processing step {name} makes a mask {mask.dtype} {list(mask.shape)} of one "
            f"{found.mask.dtype} {list(found.mask.shape)}; mend the step"
        )
    return mask
