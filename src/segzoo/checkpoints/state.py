"""State dicts of other repositories: read safely, unwrapped and renamed."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from segzoo.checkpoints.weights import parse_safetensors, read_bytes
from segzoo.errors import SegzooError, first_line

State = Mapping[str, Tensor]
# Lightning, DataParallel and training scripts wrap a state dict in one of these
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "network")


def read_state(path: Path) -> dict[str, Any]:
    """Read the tensors of a safetensors or PyTorch file; nothing in it is executed."""
    return parse_state(read_bytes(path), path)


def parse_state(content: bytes, path: Path) -> dict[str, Any]:
    """Return the tensors in the bytes of such a file; ``path`` is where they were read from, and tells the format.

    Raises:
        SegzooError: the file is damaged, of another kind, or holds more than tensors.
    """
    import torch

    if path.suffix == ".safetensors":
        return parse_safetensors(content, path)
    try:
        # weights_only refuses everything but tensors and plain containers
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise SegzooError(
            f"{path} is no PyTorch file, or holds more than tensors and is not read, since a pickle can run code; save "
            "its state dict alone"
        ) from None
    except Exception as error:  # an empty or cut file ends in any of many kinds
        reason = first_line(error) or type(error).__name__
        raise SegzooError(f"{path} is not a readable {path.suffix} file ({reason})") from None


def unwrapped(state: Any) -> dict[str, Tensor]:
    """Return the tensors inside a training script's container, without DataParallel's prefix."""
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        kind = f"a {type(state).__name__}" + (" whose keys are no names" if isinstance(state, Mapping) else "")
        raise SegzooError(f"these weights are {kind}, not a state dict; save the state dict")
    for key in CONTAINERS:
        if isinstance(state.get(key), Mapping):
            return unwrapped(state[key])
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}  # and no epochs beside them
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def renamed(state: State, rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Return ``state`` with every key's first matching prefix replaced; a key that no rule knows keeps its name."""
    out = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            new, matched = re.subn(rf"^{pattern}(?=\.)", replacement, key)
            if matched:
                key = new
                break
        out[key] = value
    return out
