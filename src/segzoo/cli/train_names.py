"""Names of models, checkpoints and datasets on a training's command line, spelled out as import paths."""

import re
from pathlib import Path
from typing import Any

import segzoo.data as data_modules
from segzoo.checkpoints.names import RECIPE
from segzoo.errors import MissingError
from segzoo.extensions import announced, imported
from segzoo.hub.find import open_checkpoint
from segzoo.imaging.codes import class_names_of
from segzoo.registry import list_models, model_facts, models, nearest
from segzoo.tasks import Task

MODEL_OPTION, DATA_OPTION = "--model", "--data"
LOADER = "segzoo.hub.from_pretrained"
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def spell_out(arguments: list[str]) -> list[str]:
    """Return a command line with import paths in the place of the zoo's names after --model and --data."""
    spelled: list[str] = []
    options = iter([part for argument in arguments for part in split_option(argument)])
    for argument in options:
        spelled.append(argument)
        value = next(options, None) if argument in (MODEL_OPTION, DATA_OPTION) else None
        if value is not None:
            spelled += model_options(value) if argument == MODEL_OPTION else [data_path(value)]
    return spelled


def split_option(argument: str) -> list[str]:
    """``--model=x`` as two arguments."""
    option, equals, value = argument.partition("=")
    return [option, value] if equals and option in (MODEL_OPTION, DATA_OPTION) else [argument]


def model_options(name: str) -> list[str]:
    """Return what follows --model: a builder for a model's name, a loader for a checkpoint's name or folder."""
    if name in list_models():
        return [model_facts(name).builder]
    if IMPORT_PATH.fullmatch(name) and not Path(name).exists():
        return [name]
    open_checkpoint(name)  # fails here, in one sentence, rather than in the middle of the parser
    return [LOADER, "--model.name_or_path", name]


def data_path(name: str) -> str:
    """Return the import path of a dataset."""
    if IMPORT_PATH.fullmatch(name):
        return name
    kinds = {known: getattr(data_modules, known) for known in data_modules.__all__}
    datasets = [known for known, kind in kinds.items() if getattr(kind, "name", None)]  # not the bases of others
    if name in datasets:
        return f"segzoo.data.{name}"
    others = announced("datasets")
    if name not in others:
        known = [*datasets, *others]
        raise MissingError(f"there is no dataset {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    imported("datasets", others[name])  # fails here, in one sentence, rather than in the middle of the parser
    return others[name].value.replace(":", ".")


def give_classes(options: Any) -> None:
    """Give a new model of the zoo as many classes as the data's options name, where nothing was said of the model's."""
    model, data = options.model, options.data.init_args
    meanings = data.get("colours") or data.get("values") or {}
    names = tuple(data.get("class_names") or (class_names_of(meanings) if meanings else ()))
    new = model.class_path in {known.builder for known in models().values()}
    if new and names and not data.get("multilabel") and model.init_args.get("num_classes") == 1:
        model.init_args.num_classes = Task.of_classes(names, False).num_classes


def default_folder(verb: str, options: Any) -> Path:
    """Return where a training, a test or a validation writes, where nobody said.

    A test has a folder of its own, of a run's checkpoint in the run's; but with --ckpt_path it is the run's, whose
    files that means.
    """
    fold = options.data.init_args.get("fold", 0)  # those of a cross-validation may be trained at the same time
    data = options.data.class_path.rpartition(".")[2].lower() + (f"-fold{fold}" if fold else "")
    alone = verb != "fit" and options.ckpt_path is None
    loads = options.model.class_path == LOADER
    if alone and loads and (run := Path(options.model.init_args.name_or_path).parent / RECIPE).is_file():
        return run.parent / f"{verb}-{data}"
    if loads:
        checkpoint = open_checkpoint(options.model.init_args.name_or_path)
        name = checkpoint.config.entries.get("name", checkpoint.folder.name)
        model = Path(str(name)).name  # a stranger's stays below runs/
    else:
        model = options.model.class_path.rpartition(".")[2]
    return Path("runs") / (f"{model}-{data}" + (f"-{verb}" if alone else ""))
