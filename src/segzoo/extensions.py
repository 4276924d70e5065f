"""Named things that others add to the zoo: models, datasets, metrics, readers, export formats, post-processing steps.

An installed package announces them by entry points, one group a kind (``segzoo.models``, ``segzoo.datasets``, ...).
Their names are read from the package's metadata, and nothing of it is imported before a thing is used. Names of the
zoo's own cannot be taken.
"""

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


@cache
def announced(kind: str) -> "dict[str, EntryPoint]":
    """Return what installed packages announce of a kind, such as "models", by name; nothing is imported.

    Of two packages that announce one name, the first by name of package counts, with a warning.
    """
    from importlib.metadata import entry_points  # takes as long to import as the zoo's tables

    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=f"segzoo.{kind}"), key=package):
        first = found.setdefault(point.name, point)
        if package(first) != package(point):
            warnings.warn(
                f"{package(first)} and {package(point)} both announce {point.name!r} among segzoo's {kind}: that of "
                f"{package(first)} is taken; uninstall one of them",
                stacklevel=2,
            )
    return found


def package(point: "EntryPoint") -> str:
    """Return the distribution that announces an entry point."""
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]


def imported(kind: str, point: "EntryPoint") -> object:
    """Import what an entry point names.

    Raises:
        SegzooError: the import fails, for whatever reason; the message names the package.
    """
    try:
        return point.load()
    except Exception as error:  # somebody else's code may raise anything
        raise SegzooError(
            f"{point.name!r} of segzoo's {kind} comes from the package {package(point)}, which cannot be imported "
            f"({type(error).__name__}: {error}); mend or reinstall {package(point)}, or uninstall it"
        ) from error


class Table(Mapping[str, T], Generic[T]):
    """Things of one kind by name: the zoo's own, those added at run time, and those that packages announce.

    Args:
        kind: last part of the group's name, such as "readers" for ``segzoo.readers``.
        own: the zoo's, in the order in which they are tried.

    Example:
        >>> from segzoo.extensions import Table
        >>> shapes = Table("shapes", {"round": 1})
        >>> shapes.add("square", 2)
        >>> list(shapes), shapes["square"]
        (['round', 'square'], 2)
    """

    def __init__(self, kind: str, own: Mapping[str, T]) -> None:
        self.kind = kind
        self._own = dict(own)
        self.added: dict[str, T] = {}  # in this process

    def add(self, name: str, thing: T) -> None:
        """Add a thing in this process.

        Raises:
            SegzooError: the name is the zoo's own.
        """
        if name in self._own:
            raise SegzooError(f"{name!r} is among segzoo's own {self.kind} already; choose another name")
        self.added[name] = thing

    def __iter__(self) -> Iterator[str]:
        here = {**self._own, **self.added}
        yield from here
        yield from (name for name in announced(self.kind) if name not in here)  # read where none here was enough

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> T:
        for known in (self._own, self.added):
            if name in known:
                return known[name]
        thing: T = imported(self.kind, announced(self.kind)[name])  # type: ignore[assignment]  # as announced
        return thing

    def usable(self) -> Iterator[T]:
        """Yield every thing that can be imported; of one that cannot, a warning names the package."""
        for name in self:
            try:
                yield self[name]
            except SegzooError as error:
                warnings.warn(str(error), stacklevel=2)
