"""Cross-validation, ``segzoo fit --folds 5``: each fold in a folder of its own, and then all of them as one ensemble.

The run's folder holds ``fold0`` to ``fold4``, each of which is what ``--data.fold`` alone would have left, and the
ensemble as its ``checkpoint``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import CONFIG, RECIPE
from segzoo.cli.run_files import CHECKPOINT
from segzoo.cli.run_folder import refuse_overwriting, written
from segzoo.cli.train_names import default_folder
from segzoo.cli.train_results import test_results
from segzoo.data import SegmentationDataModule
from segzoo.data.splits import FOLDS
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.hub.load import load
from segzoo.imaging.cases import counted
from segzoo.metrics.score_file import read_image_scores
from segzoo.models._ensemble import Ensemble
from segzoo.network import SegmentationNetwork
from segzoo.paths import write_whole

FINISHED = "finished.json"  # in a fold's folder, and for how many epochs
WINDOW = ("intensity", "window", "mean", "std")  # which follow from the images that are trained on


class Folds:
    """Trainings of one command.

    Args:
        options: of ``segzoo fit``.

    Attributes:
        root: the run's folder.
        fold: the one that is trained.

    Raises:
        SegzooError: the options do not go with folds.
    """

    def __init__(self, options: Any) -> None:
        if options.folds != FOLDS:
            raise SegzooError(f"--folds {options.folds}: data is divided into {FOLDS} folds, so say --folds {FOLDS}")
        if options.ckpt_path not in (None, "last"):
            raise SegzooError("--folds goes on by --ckpt_path last: each fold from a file of its own")
        if options.trainer.fast_dev_run:
            raise SegzooError("--trainer.fast_dev_run keeps nothing that could be joined; leave --folds out")
        if options.data.init_args.get("fold"):
            raise SegzooError("--folds trains all folds; leave --data.fold out")
        root = options.trainer.default_root_dir or default_folder("fit", options)
        self.root, self.given, self.fold = Path(root).expanduser(), options.clone(), 0
        self.given.folds = None
        if self.given.ckpt_path is None:
            for fold in range(FOLDS):
                refuse_overwriting(self.folder(fold), None)
            refuse_overwriting(self.root, None)
        self.go_on()

    def folder(self, fold: int) -> Path:
        """Return the folder of a fold."""
        return self.root / f"fold{fold}"

    @property
    def recipe(self) -> Path | None:
        """Recipe of the first fold, whose sizes those after it have, or they could not be joined."""
        return self.folder(0) / RECIPE if self.fold else None

    # ---- one after another

    def options(self) -> Any:
        """Return the options of the fold that is trained."""
        options, folder = self.given.clone(), self.folder(self.fold)
        options.trainer.default_root_dir = str(folder)
        if options.ckpt_path is not None and not folder.exists():
            options.ckpt_path = None
        chosen = options.data.init_args
        chosen["fold"] = self.fold
        trained = self.folder(0) / CHECKPOINT
        if self.fold and {*WINDOW} <= {*chosen.as_dict()} and (trained / CONFIG).is_file():
            contract = read_config(trained).preprocessing
            if contract.get("intensity") != "zscore":  # of the first fold's images; or each would have another
                for key in WINDOW:
                    chosen[key] = contract[key]
        return options

    def require(self, model: SegmentationNetwork, data: SegmentationDataModule) -> None:
        """Refuse before the first training what could not be joined after the last.

        Raises:
            SegzooError: the model is of somebody's own class, or the data has no folds.
        """
        if model.model_name is None:
            raise SegzooError(
                f"--folds joins models that have a name, and {type(model).__name__} has none: put a builder of it "
                "under @segzoo.register"
            )
        if len(data.folds()) != FOLDS:
            raise SegzooError(
                f"{data.name} has no folds (its split is {data.split}); leave --folds out, or divide all of its images "
                "by --data.split grouped"
            )

    def is_finished(self) -> bool:
        """Return whether a fold was trained for as long as is asked for."""
        return written(self.folder(self.fold) / FINISHED) == self.length()

    def go_on(self, first: int = 0) -> bool:
        """Go to the next fold that is not finished, or to the last one; return whether there is one."""
        for self.fold in range(first, FOLDS):
            if not self.is_finished():
                rank_zero_info(f"segzoo: fold {self.fold} (of 0 to {FOLDS - 1}), in {self.folder(self.fold)}")
                return True
        return False

    @rank_zero_only
    def finish(self) -> None:
        """Note that the fold is trained."""
        write_whole(self.folder(self.fold) / FINISHED, f"{json.dumps(self.length())}\n".encode())

    def length(self) -> dict[str, Any]:
        """Return how long each fold is to be trained."""
        trainer = self.given.trainer
        return {name: trainer[name] for name in ("max_epochs", "max_steps")}

    def run_next(self, cli: LightningCLI) -> None:
        """Train the next fold as a command of its own would; after the last one, join them.

        Args:
            cli: has trained a fold.
        """
        self.finish()
        callbacks = cli.trainer_defaults["callbacks"]
        if not self.go_on(self.fold + 1):
            cli.trainer_defaults["callbacks"] = []
            alone = {"logger": False, "callbacks": [], "enable_checkpointing": False}
            self.join(cli.instantiate_trainer(**alone, default_root_dir=str(self.root)), cli.datamodule)
            return
        cli.trainer_defaults["callbacks"] = [type(one)() for one in callbacks]  # which know one run
        cli.config["fit"] = self.options()
        cli._set_seed()
        cli.before_instantiate_classes()
        cli.instantiate_classes()
        cli.after_instantiate_classes()
        cli._run_subcommand("fit")

    # ---- all of them

    def join(self, trainer: Trainer, data: SegmentationDataModule) -> None:
        """Score every fold on its test part, and write all of them as one checkpoint.

        Args:
            trainer: whose folder is the run's.
            data: of any fold.
        """
        folders = [self.folder(fold) / CHECKPOINT for fold in range(FOLDS)]
        ensemble = Ensemble([load(open_checkpoint(folder)) for folder in folders])
        metrics: dict[str, Any] = {}
        try:
            trainer.test(ensemble, data, verbose=False)
            metrics = test_results(ensemble, trainer)
        except SegzooError as error:  # the weights are worth keeping, whatever the scores are
            print(f"segzoo: the folds were not scored: {error}")
        if not trainer.is_global_zero:
            return
        if metrics:
            self.say_scores(data, metrics["images"])
        recipe = {**written(self.folder(0) / RECIPE), "folds": FOLDS}
        write_whole(self.root / RECIPE, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode())
        folder = ensemble.save_pretrained(
            self.root / CHECKPOINT, name=self.root.name, train_config=self.root / RECIPE, metrics=metrics
        )
        print(f"segzoo: {folder} is the ensemble of the {FOLDS} folds: segzoo predict {folder} IMAGES --output MASKS")

    def say_scores(self, data: SegmentationDataModule, images: int) -> None:
        """Print the Dice of each fold, and their mean and standard deviation."""
        rows = {row["id"]: float(row["dice"]) for row in read_image_scores(self.root / "test_per_image.csv")}
        means = []
        for number, fold in enumerate(data.folds()):
            scores = [rows[identifier] for identifier in fold.split_ids["test"] if identifier in rows]
            means.append(float(np.mean(scores)))
            print(f"segzoo: fold {number}: Dice {means[-1]:.4f} on its {counted(len(scores), 'held-out image')}")
        print(
            f"segzoo: Dice {np.mean(means):.4f} ± {np.std(means, ddof=1):.4f} (mean and standard deviation of {FOLDS} "
            f"folds), {np.mean([*rows.values()]):.4f} over all {images} images, each scored out of fold"
        )
