"""Something made of a module, such as its fused form, kept for as long as the module stays what it was then.

To make it takes as long as some predictions do; to see that nothing has changed takes less than a millisecond. A change
that is not seen would be a wrong mask that nobody notices. So bits are compared, not only counters of changes, which
``weight.data.mul_(2)`` and a NumPy view of a weight leave as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import attrgetter, is_
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
BOOKKEEPING = frozenset(vars(nn.Module()))  # of torch, in every module
REGISTERED = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
HANGS_ON = ("_trainer", "_fabric")  # of Lightning, which a network does not compute by
OUTSIDE = frozenset({"_kept", *HANGS_ON})
ORDINARY = (Tensor, nn.Parameter, nn.Buffer)
LAYOUT: tuple[Callable[[Tensor], Any], ...] = (Tensor.data_ptr, Tensor.size, Tensor.stride, attrgetter("dtype"))
COLUMNS = 1021  # into which bits are added up: a prime, so that channels that change places change their columns
CHUNK = 2**24  # bytes that are copied together
END = object()


class Kept(Generic[M]):
    """Place in a module for what was made of it; copies and pickles of the module begin with an empty one."""

    def __init__(self) -> None:
        self.known: tuple[State, M] | None = None

    def of(self, module: nn.Module, make: Callable[[], M]) -> M:
        """Return what ``make`` makes of a module, made anew where that has changed since.

        Of a module with hooks, which may do anything, nothing is kept.
        """
        known = self.known  # read once, as another thread may change it
        if known is not None and known[0].is_that_of(module):
            return known[1]
        del known
        self.forget()  # before there is another one
        state = State(module) if can_be_watched(module) else None
        made = make()
        if state is not None:
            self.known = state, made
        return made

    def forget(self) -> None:
        """Let go of what was made."""
        self.known = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Kept[M]":
        return Kept()

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()


class State:
    """What a module computes by, to be compared later: the objects in it and its parts, and the bits of its tensors.

    Seen is whatever is put in the place of something else, in an attribute of a module or in a list or dict that is
    one, and any change of a tensor. Not seen is what changes within other objects.

    Args:
        module: not held itself, so that it goes as soon as nobody else holds it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.dicts, self.lists = [], []
        for part in module.modules():
            own = attributes(module) if part is module else vars(part)
            self.dicts += [own] if part is not module else []
            self.dicts += [vars(part)[name] for name in (*REGISTERED, *HOOKS)]
            plain = [value for name, value in own.items() if name not in BOOKKEEPING]
            self.dicts += [value for value in plain if isinstance(value, dict)]
            self.lists += [value for value in plain if isinstance(value, list)]
        self.held = [*self.contents(module)]
        self.tensors = [one for one in self.held if isinstance(one, Tensor)]
        self.layouts = layouts(self.tensors)
        # while their memory is held, nothing else can come to lie where they do
        storages = {one.data_ptr(): one.untyped_storage() for one in self.tensors if one.numel()}
        self.groups = grouped([torch.empty(0, dtype=torch.uint8, device=s.device).set_(s) for s in storages.values()])
        self.sums = [*map(summed, self.groups)]

    def is_that_of(self, module: nn.Module) -> bool:
        """Return whether a module is as it was."""
        return (
            all(map(is_, self.contents(module), self.held))
            and layouts(self.tensors) == self.layouts
            and all(map(torch.equal, map(summed, self.groups), self.sums))
        )

    def contents(self, module: nn.Module) -> Iterator[Any]:
        """Yield all objects, always in one order."""
        inner: Iterable[Iterable[Any]] = chain(map(dict.values, self.dicts), self.lists)
        return chain(attributes(module).values(), chain.from_iterable(inner), (END,))


def attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a network itself."""
    return {name: value for name, value in vars(module).items() if name not in OUTSIDE}


def can_be_watched(module: nn.Module) -> bool:
    """Return whether a `State` sees all that matters: there are no hooks, and tensors are numbers in some memory."""
    if any(vars(part)[name] for part in module.modules() for name in HOOKS):
        return False
    tensors = chain(module.parameters(), module.buffers())
    return all(type(one) in ORDINARY and one.layout is torch.strided and not one.is_meta for one in tensors)


def layouts(tensors: list[Tensor]) -> list[Any]:
    """Return in which memory tensors lie, and how."""
    return [*chain.from_iterable(map(read, tensors) for read in LAYOUT)]


def grouped(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Put bytes together that lie on one device, each group filled up to whole rows of `summed`."""
    groups: dict[tuple[torch.device, int], list[Tensor]] = {}
    count = 0
    for one in tensors:
        groups.setdefault((one.device, count // CHUNK), []).append(one)
        count += one.numel()
    row = 8 * COLUMNS
    return [
        [*group, torch.zeros(-sum(map(len, group)) % row, dtype=torch.uint8, device=device)]
        for (device, _), group in groups.items()
    ]


def summed(group: list[Tensor]) -> Tensor:
    """Add up bytes, eight to a number, in columns."""
    return torch.cat(group).view(torch.int64).view(-1, COLUMNS).sum(0)
