"""Something made of a module, such as its fused form, kept for as long as the module stays what it was then.

To make it takes as long as some predictions do; to see that nothing has changed takes less than a millisecond. A change
that is not seen would be a wrong mask that nobody notices. So bits are compared, not only counters of changes, which
``weight.data.mul_(2)`` and a NumPy view of a weight leave as they are.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import call, is_, itemgetter
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

M = TypeVar("M", bound=nn.Module)
BOOKKEEPING = frozenset(vars(nn.Module()))  # of torch, in every module
REGISTERED = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
HANGS_ON = ("_trainer", "_fabric")  # of Lightning, which a network does not compute by
OUTSIDE = frozenset({"_kept", *HANGS_ON})
COUNTER = "num_batches_tracked"  # of a batch norm, which only training reads
ORDINARY = (Tensor, nn.Parameter, nn.Buffer)
LAYOUT: tuple[Callable[[Tensor], Any], ...] = (Tensor.data_ptr, Tensor.stride, Tensor.numel)
COLUMNS = 1021  # into which bits are added up: a prime, so that channels that change places change their columns
ROW = 8 * COLUMNS  # bytes
CHUNK = 2**18  # bytes of small tensors that are copied together
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
    """Objects in a module and its parts, and the bits of its tensors: what it computes by, to be compared later.

    Seen is whatever is put in the place of something else, in an attribute of a module or in a list or dict that is
    one, and any change of a tensor. Not seen is what changes within other objects.

    When states are compared, a network has run since and emptied the caches: what costs time is how many objects are
    touched. So the dicts that torch keeps in every module, mostly empty, are left alone but for those that matter, and
    those of hooks for as long as this process has added no hook at all.

    Args:
        module: not held itself, so that it goes as soon as nobody else holds it.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = [*module.modules()]
        plain = [{name: one for name, one in attributes(part).items() if name not in BOOKKEEPING} for part in parts]
        self.next_hook = RemovableHandle.next_id
        self.parts = [vars(part) for part in parts[1:]]  # the first is the module itself
        self.counts = [*map(len, self.parts)]
        self.getters = [itemgetter("_modules", "_modules", *names) for names in plain[1:]]  # of two at least: a tuple
        self.dicts = [vars(part)[name] for part in parts for name in REGISTERED]
        self.dicts += [value for own in plain for value in own.values() if isinstance(value, dict)]
        self.lists = [value for own in plain for value in own.values() if isinstance(value, list)]
        self.held = [*self.contents(module)]
        counters = {id(vars(part)["_buffers"].get(COUNTER)) for part in parts}
        self.tensors = [one for one in self.held if isinstance(one, Tensor) and id(one) not in counters]
        self.layouts = layouts(self.tensors)
        # while their memory is held, nothing else can come to lie where they do
        storages = {one.data_ptr(): one.untyped_storage() for one in self.tensors if one.numel()}
        self.whole, self.groups = in_rows([as_bytes(one) for one in storages.values()])
        self.sums = [*self.added_up()]

    def is_that_of(self, module: nn.Module) -> bool:
        """Return whether a module is as it was."""
        if self.next_hook != RemovableHandle.next_id:
            if has_hooks(module):
                return False
            self.next_hook = RemovableHandle.next_id  # it was added elsewhere
        if [*map(len, self.parts)] != self.counts:
            return False
        try:
            same = all(map(is_, self.contents(module), self.held))
        except KeyError:  # an attribute has gone
            return False
        return same and layouts(self.tensors) == self.layouts and all(map(torch.equal, self.added_up(), self.sums))

    def contents(self, module: nn.Module) -> Iterator[Any]:
        """Yield all objects, always in one order."""
        of_parts = map(call, self.getters, self.parts)
        inner: Iterable[Iterable[Any]] = chain(of_parts, map(dict.values, self.dicts), self.lists)
        return chain(attributes(module).values(), chain.from_iterable(inner), (END,))

    def added_up(self) -> Iterator[Tensor]:
        """Yield the sums of all columns of bits."""
        yield from (one.sum(0) for one in self.whole)
        yield from (rows_of(torch.cat(group)).sum(0) for group in self.groups)


def attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module, but for what a network hangs on."""
    return {name: value for name, value in vars(module).items() if name not in OUTSIDE}


def can_be_watched(module: nn.Module) -> bool:
    """Return whether a `State` sees all that matters: there are no hooks, and tensors are numbers in some memory."""
    tensors = chain(module.parameters(), module.buffers())
    ordinary = all(type(one) in ORDINARY and one.layout is torch.strided and not one.is_meta for one in tensors)
    return ordinary and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Return whether something else is called where a module or a part of it is."""
    return any(vars(part)[name] for part in module.modules() for name in HOOKS)


# ---- tensors


def layouts(tensors: list[Tensor]) -> list[Any]:
    """Return in which memory tensors lie, and how."""
    return [*chain.from_iterable(map(read, tensors) for read in LAYOUT)]


def as_bytes(storage: torch.UntypedStorage) -> Tensor:
    """Return a tensor's memory, as bytes in their order."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def in_rows(memories: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Lay bytes out in rows of columns.

    Returns:
        those of large tensors [R, COLUMNS], where they are; and the others and what is left of large ones, in groups of
        one device that are whole rows together.
    """
    whole: list[Tensor] = []
    groups: dict[tuple[torch.device, int], list[Tensor]] = {}
    count = 0
    for memory in memories:
        end = memory.numel() - memory.numel() % ROW if memory.numel() >= CHUNK // 4 else 0
        whole += [rows_of(memory[:end])] if end else []
        groups.setdefault((memory.device, count // CHUNK), []).append(memory[end:])
        count += memory.numel() - end
    fillers = [
        torch.zeros(-sum(map(len, group)) % ROW, dtype=torch.uint8, device=device)
        for (device, _), group in groups.items()
    ]
    return whole, [[*group, filler] for group, filler in zip(groups.values(), fillers, strict=True)]


def rows_of(memory: Tensor) -> Tensor:
    """Return bytes, as many as whole rows have, as numbers of eight bytes [R, COLUMNS]."""
    return memory.view(torch.int64).view(-1, COLUMNS)
