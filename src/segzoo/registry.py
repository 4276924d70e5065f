"""Model names and how to build them, known without importing torch.

An architecture file decorates each of its builders with :func:`register` and literal facts. The facts are
read from the file's syntax tree, so that names, parameter counts and papers are written once, beside the
builder they describe, and yet can be listed in milliseconds.
"""

import ast
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segzoo.errors import MissingError, SegzooError

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

M = TypeVar("M", bound="SegmentationNetwork")

# Arguments that say how a model is trained or started, not what it is: a checkpoint does not store them.
NOT_ARCHITECTURE = frozenset(
    {
        *("loss", "optimizer", "lr_scheduler", "encoder_weights", "frozen_epochs", "layer_decay"),
        *("upkern_from", "checkpointing"),
    }
)


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before anything is built.

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


def register(
    *,
    parameters: int,
    paper: str,
    spatial_dims: tuple[int, ...] = (2,),
    alias: str | None = None,
    pretrained: str | None = None,
) -> Callable[[Callable[..., M]], Callable[..., M]]:
    """Put a builder into the zoo under its own name (and an alias); every argument must be a literal.

    The built model is stamped with the builder's name and the architecture arguments it was given: that is
    what its checkpoints record.
    """

    def decorate(builder: Callable[..., M]) -> Callable[..., M]:
        @functools.wraps(builder)
        def build(**arguments: Any) -> M:
            model = builder(**arguments)
            model.model_name = builder.__name__
            given = {key: value for key, value in arguments.items() if key not in NOT_ARCHITECTURE}
            model.arguments = {**model.recorded_arguments(), **given}
            return model

        return build

    return decorate


@functools.cache
def models() -> dict[str, ModelFacts]:
    """Every registered model by name, aliases included."""
    found = {}
    for file in sorted((Path(__file__).parent / "models").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (facts := _registered_facts(node)) is not None:
                alias = facts.pop("alias", None)
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                for name in filter(None, (node.name, alias)):
                    found[name] = ModelFacts(name, f"segzoo.models.{file.stem}.{node.name}", summary, **facts)
    return dict(sorted(found.items()))


def _registered_facts(function: ast.FunctionDef) -> dict[str, Any] | None:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "register":
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in decorator.keywords}
    return None


def list_models(pattern: str = "*") -> list[str]:
    """The names of the zoo's architectures, sorted; ``pattern`` is a shell pattern such as ``"*unext*"``."""
    return [name for name in models() if fnmatchcase(name, pattern)]


def model_facts(name: str) -> ModelFacts:
    """What is known of the model called ``name``.

    Raises:
        MissingError: there is no such model; the message names the nearest ones.
    """
    if name not in models():
        raise MissingError(f"there is no model {name!r}{nearest(name, models())}; `segzoo list` shows all of them")
    return models()[name]


def builder(name: str) -> Callable[..., "SegmentationNetwork"]:
    """The function that builds the model called ``name``."""
    module, _, function = model_facts(name).builder.rpartition(".")
    built: Callable[..., SegmentationNetwork] = getattr(importlib.import_module(module), function)
    return built


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
    """
    build = builder(name)
    if in_channels is not None:
        architecture["in_channels"] = in_channels
    arguments = {"num_classes": num_classes, "multilabel": multilabel, **architecture}
    known = list(inspect.signature(inspect.signature(build).return_annotation).parameters)
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


def nearest(name: str, names: Iterable[str]) -> str:
    """A half sentence that names what somebody who typed ``name`` may have meant, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(names), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
