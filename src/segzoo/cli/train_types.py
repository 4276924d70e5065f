"""Types of options that jsonargparse does not know: as they are typed, and as train.yaml holds them."""

from numbers import Number
from typing import Any

import torch
import yaml
from jsonargparse.typing import register_type
from torch import Tensor


def register_types() -> None:
    """Let options be numbers, devices and tensors, as transforms, callbacks and losses take them."""
    register_type(Number, plain_number, plain_number, type_check=isinstance)
    register_type(torch.device)
    register_type(Tensor, Tensor.tolist, tensor_of_numbers)


def plain_number(value: Any) -> Number:
    """Return a number as it was read from a configuration, where it is one.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, Number):
        raise ValueError(f"{value} is no number")
    return value


def tensor_of_numbers(value: Any) -> Tensor:
    """Return a number, or a list of numbers or of such lists, as a tensor.

    Raises:
        ValueError: it is something else.
    """
    value = yaml.safe_load(value) if isinstance(value, str) else value
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{value} is no list of numbers") from error
