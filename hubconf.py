"""Entry points for torch.hub: every model of the zoo, under its name.

    model = torch.hub.load("<owner>/segzoo:v0.1.0", "lv_unet", pretrained=True)

torch.hub unpacks this repository into its cache and runs this file; nothing is installed, so segzoo is found from here.
It lists every callable without a leading underscore as a model, so all helpers and imports have one.
"""

import importlib as _importlib
import inspect as _inspect
import re as _re
import sys as _sys
import warnings as _warnings
from collections.abc import Callable as _Callable
from os import PathLike as _PathLike
from pathlib import Path as _Path
from types import ModuleType as _ModuleType
from typing import Any as _Any

# Import names of what loading a model and predicting with it needs; the rest is for training, the command line and
# (monai) volumes larger than a window.
dependencies = [
    *("torch", "torchvision", "lightning", "timm", "torchmetrics", "huggingface_hub", "safetensors"),
    *("numpy", "PIL", "tqdm", "SimpleITK"),
]

# Arguments that say where a checkpoint comes from.
_ORIGIN = ("revision", "cache_dir", "token", "local_files_only")


# ---- this repository's segzoo


def _import_segzoo() -> _ModuleType:
    """Import segzoo from this folder, before any other of that name on the path.

    The folder is on the path for the import alone: what segzoo imports later is found through the package itself.

    Raises:
        ImportError: a stranger's package of this name is imported already.
    """
    source = _Path(__file__).resolve().parent / "src"
    _sys.path.insert(0, str(source))
    try:
        package = _importlib.import_module("segzoo")
    finally:
        _sys.path.remove(str(source))
    own, imported = source / "segzoo" / "__init__.py", _origin(package)
    if imported == own:
        return package
    if not {"create_model", "from_pretrained", "list_models"} <= set(dir(package)):
        raise ImportError(
            f"another package called segzoo is imported already, from {imported}, and a process can hold one of that "
            "name: load this model in a process that does not import the other"
        )
    _warnings.warn(
        f"segzoo {package.__version__} is imported already, from {imported}: it is what builds and loads the model, "
        f"and not segzoo {_version(own)} in {own}; to use that one, call torch.hub before anything imports segzoo",
        stacklevel=2,
    )
    return package


def _origin(package: _ModuleType) -> _Path:
    """Return the file of a package, or its folder where it has none."""
    folders = getattr(package, "__path__", ["an unknown place"])
    return _Path(getattr(package, "__file__", None) or next(iter(folders))).resolve()


def _version(file: _Path) -> str:
    found = _re.search(r'^__version__ = "(.*)"', file.read_text(encoding="utf-8"), _re.MULTILINE)
    return found[1] if found else "of an unknown version"


_segzoo: _Any = _import_segzoo()
_registry: _Any = _importlib.import_module("segzoo.registry")
_models: dict[str, _Any] = _registry.models()


# ---- checkpoints


def _load(name: str, pretrained: bool | str | _PathLike[str] | None, arguments: dict[str, _Any]) -> _Any:
    """Return what every entry point does."""
    if pretrained is None or pretrained is False:
        _refuse(f"{name} with random weights", [key for key in arguments if key in _ORIGIN], "it goes with pretrained")
        return _segzoo.create_model(name, **arguments)
    known = [key for key in _inspect.signature(_segzoo.from_pretrained).parameters if key != "name_or_path"]
    unknown = [key for key in arguments if key not in known]
    _refuse(f"{name} with pretrained", unknown, f"its checkpoint says what it is, and takes {', '.join(known)}")
    checkpoint = _checkpoint(name, pretrained)
    model = _segzoo.from_pretrained(checkpoint, **arguments)
    if model.model_name != _builder(name):
        raise _segzoo.SegzooError(
            f"the checkpoint {checkpoint} is no {name}: load it with the entry point {model.model_name}"
        )
    return model


def _refuse(what: str, arguments: list[str], why: str) -> None:
    if arguments:
        raise _segzoo.SegzooError(f"{what} has no argument {arguments[0]!r}: {why}")


def _checkpoint(name: str, pretrained: bool | str | _PathLike[str]) -> str:
    """Return the name, folder or Hub repository that ``pretrained`` means.

    Raises:
        MissingError: it is True and the model has no default.
        SegzooError: it is empty or of another type.
    """
    if pretrained is True:
        if _models[name].pretrained is None:
            raise _segzoo.MissingError(
                f"there is no pretrained {name} yet; the zoo's checkpoints are {', '.join(_checkpoints())}, and "
                "pretrained also takes a checkpoint's folder or user/repo"
            )
        return str(_models[name].pretrained)
    if isinstance(pretrained, _PathLike):
        return str(pretrained)
    if not isinstance(pretrained, str) or not pretrained:
        raise _segzoo.SegzooError(
            "pretrained is True, False, a dataset such as 'busi', or a checkpoint's name, folder or user/repo, and not "
            f"{pretrained!r}"
        )
    dataset = pretrained.lower()
    for checkpoint in (*(f"{_dashed(other)}-{dataset}" for other in _names(name)), pretrained):
        if checkpoint in _checkpoints():
            return checkpoint
    is_dataset = pretrained.isalnum() and not _Path(pretrained).exists()
    return f"{_dashed(_builder(name))}-{dataset}" if is_dataset else pretrained


def _checkpoints() -> list[str]:
    """Those at hand, those published, and the models' defaults."""
    defaults = {facts.pretrained for facts in _models.values()} - {None}
    return sorted(defaults | set(_segzoo.list_checkpoints()))


def _checkpoints_of(name: str) -> list[str]:
    """Those whose names say that they are of this model: ``cmunext-s-busi`` is of ``cmunext_s``, not ``cmunext``."""
    found = []
    for checkpoint in _checkpoints():
        starts = [model for model in _models if checkpoint.startswith(f"{_dashed(model)}-")]
        if starts and max(starts, key=len) in _names(name):
            found.append(checkpoint)
    return found


def _builder(name: str) -> str:
    """Return the model's own name, where ``name`` may be an alias."""
    return str(_models[name].builder.rpartition(".")[2])


def _names(name: str) -> list[str]:
    """Return all names of a model, the given one first."""
    return [name, *(other for other in _models if other != name and _builder(other) == _builder(name))]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


# ---- entry points


def _entry_point(name: str) -> _Callable[..., _Any]:
    def entry_point(pretrained: bool | str | _PathLike[str] | None = False, **arguments: _Any) -> _Any:
        return _load(name, pretrained, arguments)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = _help(name)
    return entry_point


def _help(name: str) -> str:
    """Return what ``torch.hub.help`` prints."""
    facts = _models[name]
    ranks = " and ".join(f"{rank}D" for rank in facts.spatial_dims)
    return f"""{facts.summary}

{facts.parameters:,} parameters with the default arguments; for {ranks} images; {facts.paper}

{_example(name)}

Args:
    pretrained: False, the default, is random weights.
        {_default(name)}
        Any other string: a checkpoint's name or folder, or user/repo on the Hugging Face Hub.
        Checkpoints of this model: {", ".join(_checkpoints_of(name)) or "none yet"}.
        A pretrained model is in eval mode and brings its own preprocessing.
    in_channels: channels of the images; with pretrained, another number than the checkpoint's adapts the first layer.
    num_classes: 1 is binary, more are multi-class; with pretrained, another number starts with a new head.
    revision, cache_dir, token, local_files_only: with pretrained, which version of a checkpoint to take from the Hub,
        where to keep it, how to log in, and whether to stay offline.
    loss, optimizer, lr_scheduler: to train it further; None is the paper's.
    **arguments: without pretrained, all others of segzoo.create_model("{name}"), such as multilabel.
"""


def _default(name: str) -> str:
    """Return what ``pretrained=True`` and a dataset's name mean."""
    start, checkpoint = f"{_dashed(_builder(name))}-", _models[name].pretrained
    if checkpoint is None:
        return f"""True is refused, since there is no default checkpoint yet.
        A dataset such as "busi": the checkpoint {start}DATASET, where there is one."""
    return f"""True: the checkpoint {checkpoint}.
        A dataset such as "{checkpoint.removeprefix(start)}": the checkpoint {start}DATASET."""


def _example(name: str) -> str:
    """Lines to start from, in the version at hand."""
    facts = _models[name]
    choice = "pretrained=True" if facts.pretrained else "in_channels=1, num_classes=4"
    use = 'model.predict("scan.png").save("mask.png")' if facts.pretrained else "logits = model(images)  # [B, 4, H, W]"
    if 3 in facts.spatial_dims:
        use = use.replace("png", "nii.gz").replace("H, W", "D, H, W")
    return f"""    model = torch.hub.load("<owner>/segzoo:v{_segzoo.__version__}", "{name}", {choice})
    {use}"""


globals().update({_name: _entry_point(_name) for _name in _models})
