"""Folder of a training: what may start or go on there, and the files that Lightning keeps."""

from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from segzoo.checkpoints.names import CONFIG, RECIPE
from segzoo.cli.run_files import BEST, LAST, PREVIOUS, SPLIT, STATE, WEIGHTS_ALONE, damage, first_whole
from segzoo.errors import MissingFileError, SegzooError
from segzoo.steps import OTHER_IMAGES


def resume_file(verb: str, root: Path, given: str | None) -> str | None:
    """Return the file that --ckpt_path means; Lightning looks for "last" before it knows the run's folder.

    Raises:
        MissingFileError: there is none.
        SegzooError: it is damaged; for a training that goes on from its last epoch, all of its files are.
    """
    if given is None:
        return None
    if verb == "fit" and given == "last":
        return file_to_go_on_from(root)
    file = root / f"{given}.ckpt" if given in ("last", "best") else Path(given)
    if not file.is_file():
        raise MissingFileError(
            f"there is no file {file} for --ckpt_path {given}; give a .ckpt file, or the run's folder"
        )
    if (reason := damage(file, STATE if verb == "fit" else WEIGHTS_ALONE)) is not None:
        raise SegzooError(f"--ckpt_path names {file}, which is damaged ({reason}); give another .ckpt file of the run")
    return str(file)


def file_to_go_on_from(root: Path) -> str | None:
    """Return the newest whole file of a run, None for one that has not come as far as to keep any.

    Raises:
        SegzooError: it has files, and all are damaged.
    """
    # BEST alone: of a run that was killed in its first epoch, after a validation
    file, reasons = first_whole([root / name for name in (LAST, PREVIOUS, BEST)], STATE)
    if file is not None:
        if file.name != LAST:
            why = "; ".join(reasons) or f"{root} holds no {LAST}"
            rank_zero_info(f"segzoo: {why}, so training goes on from {file.name}")
        return str(file)
    if reasons:
        raise SegzooError(f"{'; '.join(reasons)}; give another .ckpt file of the run, or start it anew elsewhere")
    # a run that was killed before that, or not yet started
    rank_zero_info(f"segzoo: {root} holds no {LAST}, so training starts from the beginning")
    return None


def refuse_overwriting(root: Path, resumed: str | None) -> None:
    """Never start in the folder of another run; one that goes on from a file of its own is the same."""
    held = any((root / name).is_file() for name in (LAST, PREVIOUS, BEST, f"checkpoint/{CONFIG}"))
    if held and not is_within(resumed, root):
        raise SegzooError(
            f"{root} already holds a run: add --ckpt_path last to continue it, or give --trainer.default_root_dir "
            "another folder"
        )


def claim(root: Path) -> IO[str]:
    """Keep a run's folder to one training: what is returned holds it, until it is closed or the process ends.

    Nothing is held on Windows, where an open file could not be replaced, nor on a file system without locks.

    Raises:
        SegzooError: another training, or this one that was taken for dead, runs there.
    """
    file = (root / RECIPE).open("a", encoding="utf-8")
    if find_spec("fcntl") is None:
        file.close()
        return file
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SegzooError(
            f"{root} is trained in at the moment: give each run a --trainer.default_root_dir of its own, or wait for "
            "the end of that one"
        ) from None
    except OSError:  # not supported here
        pass
    return file


def refuse_other_run(folder: Path, recipe: dict[str, Any], split_sha256: str) -> None:
    """Refuse to go on with a run by another optimizer, by another schedule or on other images.

    Its state holds what optimizer and schedule are at, so that other options for them would be ignored or would not
    fit. Checked before anything of the run is written over.

    Args:
        folder: of the run, as far as it holds files of one.
        recipe: the configuration that it would go on with.
        split_sha256: of the data that it would go on with.

    Raises:
        SegzooError: saying what is other.
    """
    if written(folder / SPLIT).get("sha256", split_sha256) != split_sha256:
        raise SegzooError(OTHER_IMAGES)
    before = written(folder / RECIPE)
    if "model" not in before:
        return
    for name in ("optimizer", "lr_scheduler"):
        of_model = [one["model"].get("init_args", {}).get(name) for one in (before, recipe)]
        for old, new in ((before.get(name), recipe.get(name)), of_model):
            if not is_alike(old, new):
                raise SegzooError(
                    f"the run in {folder} was trained with {name} {said(old)}, and this command says {said(new)}, "
                    f"which its state does not fit; give the options of its {RECIPE}, or start a new run from its "
                    f"checkpoint: --model {folder / 'checkpoint'}"
                )


def written(file: Path) -> dict[str, Any]:
    """Return what a run has written in YAML or JSON; nothing where it was killed before it had."""
    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def is_alike(one: Any, other: Any) -> bool:
    """Return whether two configurations of a class agree in all that both of them say; versions add options."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return one == other
    return all(is_alike(one[key], other[key]) for key in one.keys() & other.keys())


def said(configured: Any) -> str:
    """Return a configured class in a few words."""
    if not isinstance(configured, dict):
        return "as the model has it" if configured is None else str(configured)
    options = ", ".join(f"{key} {value}" for key, value in configured.get("init_args", {}).items())
    return f"{configured.get('class_path')} ({options})"


def is_within(file: str | Path | None, folder: Path) -> bool:
    """Return whether a file, if there is one, lies directly in a folder, however both are spelled."""
    return file is not None and Path(file).resolve().parent == folder.resolve()


def loggers(root: str) -> list[Logger]:
    """Return the logs of a run, in its folder."""
    found: list[Logger] = [CSVLogger(root, name="csv", flush_logs_every_n_steps=1)]  # all of it survives a kill
    if find_spec("tensorboard"):
        found.append(TensorBoardLogger(root, name="tensorboard"))
    return found


class RunCheckpoint(ModelCheckpoint):
    """File of Lightning's state beside everything else of the run, replaced as the run goes on.

    Attributes:
        goes_on: whether this run is resumed from a file in its own folder.
    """

    goes_on = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning's hook: the run's folder is known only now."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best epoch also where the run's folder has moved or is spelled in another way meanwhile."""
        if self.goes_on:
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_k_models": {self.moved(file): score for file, score in state_dict["best_k_models"].items()},
                **{name: self.moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")},
            }
        super().load_state_dict(state_dict)

    def moved(self, file: str) -> str:
        """Return a file of the run as it was called, where it is now."""
        return str(Path(str(self.dirpath)) / Path(file).name) if file else file


class BestCheckpoint(RunCheckpoint):
    """Keeps the epoch of the best validation Dice, among those whose weights may be deployed."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/dice",
            mode="max",
            save_on_train_epoch_end=False,  # so that on_validation_end below is the only place that saves
            enable_version_counter=False,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, unless these weights do not compete (LV-UNet before λ = 1)."""
        if getattr(pl_module, "competes_for_best", True):
            super().on_validation_end(trainer, pl_module)


class LastCheckpoint(RunCheckpoint):
    """Keeps the last finished epoch, to continue from."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
