"""Model names and how to build them, known without importing torch.

An architecture file decorates each of its builders with :func:`register` and facts. Of the zoo's own files these are
literals and read from the syntax tree, so that names, parameter counts and papers are written once, beside the builder
they describe, and yet can be listed in milliseconds. Others' builders are registered when their file is imported; of
those in installed packages the names are read from the packages' metadata before that.
"""

import ast
import difflib
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segzoo.errors import MissingError, MissingPackageError, SegzooError
from segzoo.extensions import Table, announced, imported, package

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

M = TypeVar("M", bound="SegmentationNetwork")
OWN = "segzoo.models"  # the package with the zoo's builders

# Arguments that say how a model is trained or started, not what it is: a checkpoint does not store them.
NOT_ARCHITECTURE = frozenset(
    {
        *("loss", "optimizer", "lr_scheduler", "encoder_weights", "frozen_epochs", "layer_decay"),
        *("upkern_from", "checkpointing"),
    }
)


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model that are known before anything is built.

    Attributes:
        name: what :func:`create_model` calls it.
        builder: import path of the function that builds it.
        summary: one line for people.
        parameters: trainable parameters with its default arguments.
        paper: where it was published.
        spatial_dims: the ranks of images it takes.
        pretrained: its default checkpoint, where the zoo has trained one.
    """

    name: str
    builder: str
    summary: str
    parameters: int
    paper: str
    spatial_dims: tuple[int, ...] = (2,)
    pretrained: str | None = None


Registered = tuple[ModelFacts, Callable[..., "SegmentationNetwork"]]


def register(
    *,
    parameters: int,
    paper: str,
    spatial_dims: tuple[int, ...] = (2,),
    alias: str | None = None,
    pretrained: str | None = None,
) -> Callable[[Callable[..., M]], Callable[..., M]]:
    """Put a builder into the zoo under its own name (and an alias), from anyone's file.

    The built model is stamped with the builder's name and the architecture arguments it was given: that is
    what its checkpoints record. They load where the builder is known: in every process for a model that an installed
    package announces by the entry point group ``segzoo.models``, and else where the file with the builder was imported.

    Args:
        parameters: trainable parameters with the builder's default arguments.
        paper: where the architecture was published, or any words on where it comes from.
        spatial_dims: the ranks of images it takes.
        alias: a second name.
        pretrained: its default checkpoint.

    Raises:
        SegzooError: a model of the zoo has this name.

    Example:
        >>> import segzoo
        >>> @segzoo.register(parameters=417_505, paper="my thesis")
        ... def my_net(**arguments) -> segzoo.CMUNeXt:
        ...     "CMUNeXt-S by another name."
        ...     return segzoo.create_model("cmunext_s", **arguments)
        >>> segzoo.create_model("my_net", num_classes=3).num_classes
        3
    """
    facts = {"parameters": parameters, "paper": paper, "spatial_dims": spatial_dims, "pretrained": pretrained}

    def decorate(builder: Callable[..., M]) -> Callable[..., M]:
        @functools.wraps(builder)
        def build(**arguments: Any) -> M:
            model = builder(**arguments)
            if not hasattr(model, "recorded_arguments"):
                raise SegzooError(
                    f"the builder {builder.__qualname__} returned a {type(model).__name__}, where a model is a "
                    "segzoo.SegmentationModule; derive its class from that"
                )
            model.model_name = builder.__name__
            given = {key: value for key, value in arguments.items() if key not in NOT_ARCHITECTURE}
            model.arguments = {**model.recorded_arguments(), **given}
            return model

        if not str(builder.__module__).startswith(f"{OWN}."):  # whose facts are read from their files
            for name in filter(None, (builder.__name__, alias)):
                path, summary = f"{builder.__module__}.{builder.__qualname__}", summary_of(builder.__doc__)
                _ADDED.add(name, (ModelFacts(name, path, summary, **facts), build))  # type: ignore[arg-type]
        return build

    return decorate


# ---- what there is


@functools.cache
def _own() -> dict[str, ModelFacts]:
    """Return the zoo's own models by name, aliases included."""
    found = {}
    for file in sorted((Path(__file__).parent / "models").glob("[!_]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (facts := _registered_facts(node)) is not None:
                alias = facts.pop("alias", None)
                summary = summary_of(ast.get_docstring(node))
                for name in filter(None, (node.name, alias)):
                    found[name] = ModelFacts(name, f"{OWN}.{file.stem}.{node.name}", summary, **facts)
    return dict(sorted(found.items()))


def _registered_facts(function: ast.FunctionDef) -> dict[str, Any] | None:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "register":
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in decorator.keywords}
    return None


def summary_of(docstring: str | None) -> str:
    """Return the first line of a docstring."""
    return (docstring or "").strip().split("\n")[0]


class _Added(Table[Registered]):
    """Models from outside: registered in this process, or announced by packages, by name."""

    def add(self, name: str, thing: Registered) -> None:
        """Add a model; one that is registered again, as from a notebook's cell, takes the place of the first."""
        if name in _own():
            raise SegzooError(f"{name!r} is a model of segzoo's own already; give the builder another name")
        super().add(name, thing)

    def __getitem__(self, name: str) -> Registered:
        """Return a model; importing an announced one registers it.

        Raises:
            SegzooError: what the package announces cannot be imported, or was not registered under this name.
        """
        if name not in self.added:
            point = announced(self.kind)[name]
            imported(self.kind, point)
            if name not in self.added:
                raise SegzooError(
                    f"{package(point)} announces the model {name!r}, but {point.value} is not a builder of this name "
                    "under @segzoo.register; tell its authors"
                )
        return self.added[name]


_ADDED = _Added("models", {})


def models() -> dict[str, ModelFacts]:
    """Return every model whose facts are known without an import, by name: the zoo's own, and those registered here."""
    return dict(sorted({**_own(), **{name: facts for name, (facts, _) in _ADDED.added.items()}}.items()))


def package_of(name: str) -> str | None:
    """Return the installed package that announces a model, or None for the zoo's own and those of loose files."""
    return None if name in _own() or name not in announced("models") else package(announced("models")[name])


def list_models(pattern: str = "*") -> list[str]:
    """Names of the architectures there are, sorted: the zoo's, and those of others' packages and files.

    Args:
        pattern: a shell pattern.

    Example:
        >>> import segzoo
        >>> segzoo.list_models("cmunext*")
        ['cmunext', 'cmunext_l', 'cmunext_s']
    """
    return sorted(name for name in {*_own(), *_ADDED} if fnmatchcase(name, pattern))


def model_facts(name: str) -> ModelFacts:
    """Return what is known of the model called ``name``.

    Raises:
        MissingError: there is no such model; the message names the nearest ones.
        SegzooError: the package that announces it cannot be imported.
    """
    if name in _own():
        return _own()[name]
    if name not in _ADDED:
        known = list_models()
        raise MissingError(f"there is no model {name!r}{nearest(name, known)}; `segzoo list` shows all of them")
    return _ADDED[name][0]


def require_model(name: str, package: str | None) -> None:
    """Refuse a checkpoint whose model cannot be built here.

    Args:
        name: of the model, as its config says.
        package: that announces it, as its config says; None for the zoo's own and for those of loose files.

    Raises:
        MissingPackageError: the package is not installed.
        MissingError: nobody knows the model.
        SegzooError: the package does not announce it.
    """
    if name in _ADDED.added:  # whoever it is from, it is here
        return
    if package is None:
        if name not in _own() and name not in list_models():
            raise MissingError(
                f"there is no model {name!r}{nearest(name, list_models())}; if it is registered in a file of "
                "somebody's own, import that file first"
            )
    elif not is_installed(package):
        raise MissingPackageError(
            f"the model {name!r} comes from the package {package}, which is not installed: pip install {package}"
        )
    elif normalized(package_of(name)) != normalized(package):
        raise SegzooError(f"the package {package} announces no model {name!r}; install the version of it that does")


def is_installed(package: str) -> bool:
    """Return whether a distribution is installed; nothing of it is imported."""
    from importlib.metadata import PackageNotFoundError, distribution  # takes as long to import as all else here

    try:
        return bool(distribution(package).metadata)
    except PackageNotFoundError:
        return False


def normalized(package: str | None) -> str:
    """Return one spelling of a package's name: "My.Nets" is "my-nets"."""
    return re.sub(r"[-_.]+", "-", package or "").lower()


# ---- build


def builder(name: str) -> Callable[..., "SegmentationNetwork"]:
    """Return the function that builds the model called ``name``; raises as `model_facts` does."""
    facts = model_facts(name)
    if name not in _own():
        return _ADDED[name][1]
    module, _, function = facts.builder.rpartition(".")
    built: Callable[..., SegmentationNetwork] = getattr(importlib.import_module(module), function)
    return built


def class_of(name: str) -> Any:
    """Return what the builder of a model is annotated to return, its class; raises as `model_facts` does."""
    return typing.get_type_hints(inspect.unwrap(builder(name))).get("return")


def arguments_of(name: str) -> list[str]:
    """Return the names of the arguments that a model takes; raises as `model_facts` does."""
    taken, passes_on = named_parameters(builder(name))
    for base in getattr(class_of(name), "__mro__", ()):
        if not passes_on:
            break
        if "__init__" in vars(base):
            more, passes_on = named_parameters(base.__init__)
            taken += [argument for argument in more if argument not in ("self", *taken)]
    return taken


def named_parameters(function: Callable[..., Any]) -> tuple[list[str], bool]:
    """Return the names of a function's parameters, and whether it takes others beside them, to pass on."""
    parameters = inspect.signature(function).parameters.values()
    others = [one for one in parameters if one.kind is one.VAR_KEYWORD]
    positional = [one for one in parameters if one.kind is one.VAR_POSITIONAL]
    return [one.name for one in parameters if one not in (*others, *positional)], bool(others)


def create_model(
    name: str, *, in_channels: int | None = None, num_classes: int = 1, multilabel: bool = False, **architecture: Any
) -> "SegmentationNetwork":
    """Build an architecture with random weights (or with a pretrained encoder, where it takes one).

    Args:
        name: one of :func:`list_models`.
        in_channels: channels of the image; None takes the architecture's default (3 in 2D).
        num_classes: 1 is binary (sigmoid); more is multi-class (softmax, class 0 the background) unless
            ``multilabel``.
        multilabel: every class is a mask of its own (sigmoid a class); they may overlap.
        **architecture: the architecture's own arguments, and the recipe: ``loss``, ``optimizer`` and
            ``lr_scheduler`` (None takes the paper's).

    Raises:
        MissingError: no model has this name.
        SegzooError: the model does not take one of the arguments.

    Example:
        >>> import segzoo
        >>> model = segzoo.create_model("cmunext_s", in_channels=1, num_classes=4)
        >>> model.class_names
        ('background', 'class 1', 'class 2', 'class 3')
    """
    build = builder(name)
    if in_channels is not None:
        architecture["in_channels"] = in_channels
    arguments = {"num_classes": num_classes, **architecture}
    known = arguments_of(name)
    if multilabel is not False or "multilabel" in known:
        arguments["multilabel"] = multilabel
    for argument in arguments:
        if argument not in known:
            raise SegzooError(
                f"model {name!r} has no argument {argument!r}{nearest(argument, known)}; `segzoo info {name}` shows all"
            )
    try:
        return build(**arguments)
    except TypeError as error:
        if "multiple values" not in str(error):
            raise
        raise SegzooError(
            f"{str(error).split('.')[-1]}: that is what makes it {name!r}; build the class instead"
        ) from None


def ensemble(members: Sequence["SegmentationNetwork"]) -> "SegmentationNetwork":
    """Return the ensemble of networks, a :class:`segzoo.Ensemble`; raises as that does."""
    made: SegmentationNetwork = importlib.import_module(f"{OWN}._ensemble").Ensemble(members)
    return made


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a half sentence that names what somebody who typed ``name`` may have meant, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(names), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
