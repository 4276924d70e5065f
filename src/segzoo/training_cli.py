"""``segzoo fit``, ``validate`` and ``test``: Lightning's command line with the zoo's names.

LightningCLI does the work. Added here are short names for models, checkpoints and datasets, one folder for
all that a run leaves behind, and a checkpoint folder at its end.
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

import segzoo.data as data_modules
from segzoo.errors import MissingError, SegzooError
from segzoo.hub import RECIPE, find_checkpoint, record_metrics
from segzoo.module import SegmentationModule
from segzoo.registry import models, nearest

EPOCHS = 300  # of both papers
SEED = 42
MODEL_OPTION, DATA_OPTION = "--model", "--data"
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def main(arguments: list[str] | None) -> None:
    """Run ``fit``, ``validate`` or ``test`` with the given command line (None: the shell's)."""
    TrainingCLI(arguments)


class Parser(LightningArgumentParser):
    """Lightning's parser, for which short names are spelled out first."""

    def parse_args(self, args: Any = None, **options: Any) -> Any:
        """Parse a command line in which models, checkpoints and datasets go by their names."""
        return super().parse_args(spell_out(sys.argv[1:] if args is None else args), **options)


class TrainingCLI(LightningCLI):
    """LightningCLI over the zoo's models and datasets."""

    def __init__(self, args: list[str] | None) -> None:
        super().__init__(
            SegmentationModule,
            data_modules.SegmentationDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=SEED,
            trainer_defaults={
                "max_epochs": EPOCHS,
                "callbacks": [BestCheckpoint(), LastCheckpoint()],
                "log_every_n_steps": 10,
            },
            save_config_callback=SaveRecipe,
            save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
            parser_kwargs={"prog": "segzoo"},
            parser_class=Parser,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without its predict: ``segzoo predict`` takes image files."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        if subcommand == "test":
            parser.add_argument(
                "--record",
                type=bool,
                default=False,
                help="Write the results into the tested checkpoint's config and card.",
            )
            parser.add_argument(
                "--metrics",
                type=list[str] | None,
                default=None,
                help="What to measure: dice, iou, precision, recall (the default four) and hd95.",
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Resuming restores the state of a run, never its arguments: those are the ones on the command line."""

    def before_instantiate_classes(self) -> None:
        """Give the run its folder."""
        config = self.config[self.subcommand]
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(Path("runs") / run_name(config))
        root = Path(config.trainer.default_root_dir)
        if self.subcommand == "fit":
            refuse_overwriting(root, config.ckpt_path)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Log training to CSV, and to TensorBoard where that is installed, unless other loggers were asked for."""
        config = self.config_init[self.subcommand].trainer
        if config.logger is None:
            options["logger"] = loggers(config.default_root_dir) if self.subcommand == "fit" else False
        return super().instantiate_trainer(**options)

    def before_test(self) -> None:
        """Measure what was asked for."""
        if self.config.test.metrics:
            self.model.metric_names = tuple(self.config.test.metrics)

    def after_fit(self) -> None:
        """Write the best weights as a checkpoint folder and say where everything is."""
        root = Path(self.trainer.default_root_dir)
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:
            return
        best = root / "best.ckpt"
        kept = best if best.is_file() else root / "last.ckpt"
        if kept.is_file():
            load_network(self.model, kept)
        name = getattr(self.model, "model_name", None)
        folder = (
            self.model.save_pretrained(root / "checkpoint", name=root.name, train_config=root / RECIPE)
            if name
            else None
        )
        print(
            f"\nsegzoo: {folder or root} is the checkpoint ({kept.stem} weights); {root} also holds last.ckpt (continue with "
            f"--ckpt_path last), {RECIPE}, split.json and the logs in csv/ and tensorboard/"
        )

    def after_test(self) -> None:
        """Name the protocol and the per-image file; record the results where asked."""
        if not self.trainer.is_global_zero:
            return
        results = test_results(self.model, self.trainer)
        root = Path(self.trainer.default_root_dir)
        print(
            f"segzoo: {results['images']} images; {results['protocol']}; image by image in {root / 'test_per_image.csv'}"
        )
        tested, trained = self.datamodule.describe().get("split_sha256"), self.model.data.get("split_sha256")
        if trained is not None and tested != trained:
            print("segzoo: this is not the split the checkpoint was trained on, so it may have seen these images")
        if self.config.test.record:
            if self.model.load_report is None:
                raise SegzooError("--record writes into a checkpoint folder, so test one: --model FOLDER")
            folder = Path(self.model.load_report.source)
            record_metrics(folder, results)
            print(f"segzoo: recorded in {folder}")


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch of the best validation Dice, among those whose weights may be deployed."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/dice",
            mode="max",
            save_on_train_epoch_end=False,  # so that on_validation_end below is the only place that saves
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save beside everything else of the run."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, unless these weights do not compete (LV-UNet before λ = 1)."""
        if getattr(pl_module, "competes_for_best", True):
            super().on_validation_end(trainer, pl_module)


class LastCheckpoint(ModelCheckpoint):
    """Keeps the last finished epoch, to continue from."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save beside everything else of the run."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)


class SaveRecipe(SaveConfigCallback):
    """Writes the run's whole configuration as train.yaml, and its split as split.json."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write both, when training starts."""
        if stage != "fit":
            return
        root = Path(trainer.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, root / RECIPE, skip_none=False, overwrite=True, multifile=False)
        trainer.datamodule.write_split(root / "split.json")


def spell_out(arguments: list[str]) -> list[str]:
    """A command line with import paths in the place of the zoo's names after --model and --data."""
    spelled: list[str] = []
    options = iter([part for argument in arguments for part in split_option(argument)])
    for argument in options:
        spelled.append(argument)
        if argument == MODEL_OPTION:
            spelled += model_options(next(options, ""))
        elif argument == DATA_OPTION:
            spelled.append(data_path(next(options, "")))
    return spelled


def split_option(argument: str) -> list[str]:
    """``--model=x`` as two arguments."""
    option, equals, value = argument.partition("=")
    return [option, value] if equals and option in (MODEL_OPTION, DATA_OPTION) else [argument]


def model_options(name: str) -> list[str]:
    """What follows --model: a builder for a model's name, a loader for a checkpoint's name or folder."""
    if name in models():
        return [models()[name].builder]
    if IMPORT_PATH.fullmatch(name) and not Path(name).exists():
        return [name]
    find_checkpoint(name)  # fails here, in one sentence, rather than in the middle of the parser
    return ["segzoo.hub.from_pretrained", "--model.name_or_path", name]


def data_path(name: str) -> str:
    """The import path of a dataset."""
    if IMPORT_PATH.fullmatch(name):
        return name
    if name not in data_modules.__all__:
        datasets = [known for known in data_modules.__all__ if known != "SegmentationDataModule"]
        raise MissingError(f"there is no dataset {name!r}{nearest(name, datasets)}; there are {', '.join(datasets)}")
    return f"segzoo.data.{name}"


def run_name(config: Any) -> str:
    """``lv_unet-busi``: what is trained on what."""
    model = (
        (config.model.init_args.get("name_or_path") or config.model.class_path.rpartition(".")[2])
        if config.model
        else "model"
    )
    data = config.data.class_path.rpartition(".")[2]
    return f"{Path(str(model)).name}-{data.lower()}"


def refuse_overwriting(root: Path, resumed_from: str | None) -> None:
    """Never start anew in the folder of another run."""
    if resumed_from is None and (root / "last.ckpt").is_file():
        raise SegzooError(
            f"{root} already holds a run: add --ckpt_path last to continue it, or give --trainer.default_root_dir another "
            "folder"
        )


def loggers(root: str) -> list[Logger]:
    """The logs of a run, in its folder."""
    found: list[Logger] = [CSVLogger(root, name="csv")]
    if find_spec("tensorboard"):
        found.append(TensorBoardLogger(root, name="tensorboard"))
    return found


def load_network(model: SegmentationModule, path: Path) -> None:
    """Put the weights of one of Lightning's checkpoints into ``model``."""
    import torch

    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])


def test_results(model: SegmentationModule, trainer: Trainer) -> dict[str, Any]:
    """What a test measured, as config.json keeps it."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    parts = {
        part: {name.removeprefix(prefix): round(value, 6) for name, value in values.items() if name.startswith(prefix)}
        for part, prefix in (("original", "test/"), ("resized", "test_resized/"))
    }
    return {"protocol": model.test_metrics["dice"].protocol, "images": model.tested_images, **parts}


__all__ = ["BestCheckpoint", "Callback", "LastCheckpoint", "SaveRecipe", "TrainingCLI", "main"]
