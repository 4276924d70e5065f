"""``segzoo fit``, ``validate`` and ``test``: Lightning's command line with the zoo's names.

LightningCLI does the work. Added here are short names for models, checkpoints and datasets, one folder for
all that a run leaves behind, and a checkpoint folder at its end.
"""

import signal
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse.typing import NonNegativeInt
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple, instantiate_class
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer

import segzoo.data as data_modules
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import CONFIG, RECIPE, WEIGHTS
from segzoo.checkpoints.provenance import split_hashes
from segzoo.checkpoints.save import record
from segzoo.cli.folds import Folds
from segzoo.cli.run_files import (
    BEST,
    CHECKPOINT,
    LAST,
    SPLIT,
    WEIGHTS_ALONE,
    ReplacingCheckpointIO,
    first_whole,
    remove_drafts,
)
from segzoo.cli.run_folder import (
    BestCheckpoint,
    LastCheckpoint,
    RunCheckpoint,
    claim,
    is_within,
    loggers,
    refuse_other_run,
    refuse_overwriting,
    resume_file,
    written,
)
from segzoo.cli.train_checks import (
    refuse_ensemble,
    refuse_other_preprocessing,
    refuse_random_weights,
    refuse_recording,
    refuse_unwritable,
    refuse_what_is_not_utf8,
    refuse_wrong_monitors,
    split_warning,
)
from segzoo.cli.train_errors import cause_in_input
from segzoo.cli.train_names import default_folder, give_classes, spell_out
from segzoo.cli.train_pictures import EVERY, RunPictures
from segzoo.cli.train_plan import AUTO, plan_run
from segzoo.cli.train_report import ExpectedTime, best_lines, kept_lines, next_lines, quieten, start_lines
from segzoo.cli.train_results import result_lines, test_results
from segzoo.cli.train_types import register_types
from segzoo.data.splits import PARTS
from segzoo.errors import SegzooError
from segzoo.network import SegmentationNetwork
from segzoo.paths import write_whole
from segzoo.postprocessing import Postprocessing
from segzoo.steps import Diverged

EPOCHS = 300  # of both papers
SEED = 42
GO_ON = "go on from the last whole epoch with --ckpt_path last"  # said where a signal ended a training


def main(arguments: list[str]) -> None:
    """Run ``fit``, ``validate`` or ``test`` with a command line that starts with the verb.

    Raises:
        SegzooError: the command line or what it names is wrong.
    """
    quieten()
    try:
        TrainingCLI(arguments)
    except SIGTERMException:  # would end in status 0, as if the training were finished
        print(f"segzoo: terminated; {GO_ON}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if arguments[0] == "fit":
            print(f"segzoo: {GO_ON}", file=sys.stderr)
        raise KeyboardInterrupt from None  # which Lightning had turned into status 1
    except Exception as error:
        bad_input = cause_in_input(error, arguments[0])
        if bad_input is None or bad_input is error:
            raise
        raise bad_input from error
    finally:
        if torch.distributed.is_initialized():  # see `segzoo.prediction.processes.call`
            torch.distributed.destroy_process_group()


class TrainingCLI(LightningCLI):
    """LightningCLI over the zoo's models and datasets.

    Attributes:
        given: the command line; its first word is the verb.
        claimed: what keeps the run's folder to this training, while it runs.
        folds: those of --folds, of which one after another is trained.
        pictures: what draws them.
    """

    folds: Folds | None = None
    pictures: RunPictures

    def __init__(self, args: list[str]) -> None:
        self.given = args
        self.claimed = ExitStack()
        register_types()
        raising = {"exit_on_error": False}  # so that a wrong option ends like any other bad input
        super().__init__(
            SegmentationNetwork,  # which from_pretrained is said to return
            data_modules.SegmentationDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=SEED,
            trainer_defaults={
                "callbacks": [BestCheckpoint(), LastCheckpoint(), RunPictures(), ExpectedTime()],
                "log_every_n_steps": 10,
                "enable_model_summary": False,  # whose table has a column FLOPs that says 0; start_lines has its sum
            },
            save_config_callback=None,  # before_fit writes it
            auto_configure_optimizers=False,  # Lightning's would drop the model's own schedule
            parser_kwargs={"prog": "segzoo", **raising} | dict.fromkeys(self.subcommands(), raising),
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the verb that was given, or all where none was: each takes a while to build.

        Lightning's predict is left out, as ``segzoo predict`` takes image files.
        """
        verbs = {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}
        return {name: verbs[name] for name in self.given[:1] if name in verbs} or verbs

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take --optimizer and --lr_scheduler; what is not given stays the model's."""
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        parser.set_defaults({"weights_only": True})  # see before_instantiate_classes
        if subcommand == "fit":
            parser.add_argument(
                "--plan",
                type=Literal["auto", "paper"] | list[str],
                default=AUTO,
                help="Sizes that are not given: from your own data and the memory (auto, see segzoo plan), or those of "
                "the papers; train.yaml has the reasons in its place.",
            )
            parser.add_argument(
                "--folds",
                type=int | None,
                default=None,
                help="5 trains all folds one after another, each in its folder, and joins them to an ensemble.",
            )
            parser.add_argument(
                "--pictures",
                type=NonNegativeInt,
                default=EVERY,
                metavar="N",
                help="Draw examples.png and curves.png every so many epochs; 0 draws none.",
            )
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
            parser.add_argument(
                "--calibration",
                type=bool,
                default=False,
                help="Also measure how calibrated probabilities are, and whether doubt finds the images that fail.",
            )
            parser.add_argument("--raw", type=bool, default=False, help="Leave out the checkpoint's post-processing.")
            parser.add_argument(
                "--tta", type=bool, default=False, help="Average over mirrored copies, as segzoo predict --tta does."
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse a command line in which models, checkpoints and datasets go by their names."""
        refuse_what_is_not_utf8(args)
        self.config = parser.parse_args(spell_out(args))

    def _parse_ckpt_path(self) -> None:
        """Resuming restores the state of a run, never its arguments: those are the ones on the command line."""

    @property
    def options(self) -> Any:
        """Options of the verb that runs."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Give the run its folder, and refuse what could only fail later."""
        if self.subcommand == "fit" and self.options.folds is not None:
            self.folds = Folds(self.options)
            self.config["fit"] = self.folds.options()
        if not self.options.weights_only:
            raise SegzooError("weights_only: false would run what a pickle holds as code; leave it out")
        trainer = self.options.trainer
        if trainer.barebones:
            raise SegzooError("--trainer.barebones measures Lightning's own speed and keeps nothing; leave it out")
        if trainer.max_epochs is None and trainer.max_steps == -1:
            trainer.max_epochs = EPOCHS
        if trainer.default_root_dir is None:
            trainer.default_root_dir = str(default_folder(str(self.subcommand), self.options))
        root = Path(trainer.default_root_dir).expanduser()
        trainer.default_root_dir = str(root)
        if self.subcommand == "fit":
            give_classes(self.options)
        self.options.ckpt_path = resume_file(str(self.subcommand), root, self.options.ckpt_path)
        if self.subcommand == "fit":
            refuse_overwriting(root, self.options.ckpt_path)
            refuse_ensemble(self.options)
            plan_run(self.options, self.given, self.folds.recipe if self.folds else None)
        if self.subcommand == "test" and self.options.record:
            refuse_recording(self.options)
        if self.subcommand != "fit":
            refuse_random_weights(self.options)

    def after_instantiate_classes(self) -> None:
        """Let the model use the optimizer and the schedule that were asked for, and the run know whether it goes on."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LearningRateFinder):
                raise SegzooError("LearningRateFinder cannot set the rate of a model here; give --optimizer.lr")
            if isinstance(callback, RunCheckpoint):
                callback.goes_on = is_within(self.options.ckpt_path, Path(self.trainer.default_root_dir))
            if isinstance(callback, RunPictures) and self.subcommand == "fit":
                self.pictures = callback
                callback.every = 0 if self.options.trainer.fast_dev_run else self.options.pictures
        chosen = self.config_init[self.subcommand]
        if self.folds is not None:
            self.folds.require(self.model, self.datamodule)
        if self.subcommand == "fit":
            refuse_wrong_monitors(self.model, self.trainer.callbacks, chosen.lr_scheduler)  # type: ignore[attr-defined]
        if chosen.optimizer:
            self.model._optimizer = partial(instantiate_class, init=chosen.optimizer)
        if chosen.lr_scheduler:
            self.model._lr_scheduler = partial(instantiate_class, init=chosen.lr_scheduler)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Log training to CSV, and to TensorBoard where that is installed, unless other loggers were asked for."""
        trainer = self.config_init[self.subcommand].trainer
        if trainer.logger is None:
            options.setdefault("logger", loggers(trainer.default_root_dir) if self.subcommand == "fit" else False)
        if trainer.plugins is None:
            options["plugins"] = [ReplacingCheckpointIO()]
        return super().instantiate_trainer(**options)

    @rank_zero_only
    def before_fit(self) -> None:
        """Say what there is to train on, and write the run's configuration as train.yaml, its split as split.json."""
        self.say_what_is_read()
        for reason in self.options.plan if isinstance(self.options.plan, list) else ():
            print(f"segzoo: {reason}")
        for sentence in self.datamodule.check_pixels(PARTS, self.model.preprocessing):
            print(f"segzoo: {sentence}")
        for line in start_lines(self.trainer, self.model, self.datamodule):
            print(f"segzoo: {line}")
        if self.options.trainer.fast_dev_run:
            return
        root = Path(self.options.trainer.default_root_dir)
        recipe = self.options.clone()  # how to train, anywhere: not where this run was, nor how often it was resumed
        recipe.trainer.default_root_dir = recipe.ckpt_path = None
        text = self._parser("fit").dump(recipe, skip_none=False)
        refuse_unwritable(text)
        if self.options.ckpt_path is not None:
            now = yaml.safe_load(text)
            refuse_other_run(Path(self.options.ckpt_path).parent, now, self.datamodule.split_sha256)
        root.mkdir(parents=True, exist_ok=True)
        self.claim(root)
        remove_drafts(root)
        if (root / RECIPE).read_bytes() != text.encode():
            write_whole(root / RECIPE, text.encode())
            self.claim(root)  # by the new file, too; who has opened the old one finds that held still
        if written(root / SPLIT).get("sha256") != self.datamodule.split_sha256:
            self.datamodule.write_split(root / SPLIT)

    def claim(self, root: Path) -> None:
        """Keep the run's folder to this training until its checkpoint is written, whose draft another would remove."""
        self.claimed.callback(claim(root).close)

    @rank_zero_only
    def say_what_is_read(self) -> None:
        """Say how many images there are and how they are divided."""
        for sentence in self.datamodule.summary():
            print(f"segzoo: {sentence}")

    def _run_subcommand(self, subcommand: str) -> None:
        if self.folds is None or not self.folds.is_finished():
            with self.claimed:
                super()._run_subcommand(subcommand)
        if self.folds is not None:
            self.folds.run_next(self)

    def fit(self, **arguments: Any) -> None:
        """Train; where a signal or NaN ends that, write the best epoch so far, as the end of the training would."""
        try:
            self.trainer.fit(**arguments)
        except SystemExit:  # Lightning's, for Ctrl+C and SIGTERM
            # without optimizers it has not come as far as to know its data
            if self.trainer.optimizers and (Path(self.trainer.default_root_dir) / BEST).is_file():
                self.after_fit()
            raise
        except Diverged:
            self.after_fit()
            raise

    def before_test(self) -> None:
        """Say what there is to test on, and measure what was asked for, as it was asked for."""
        self.say_what_is_read()
        self.model.test_tta, self.model.test_calibration = self.options.tta, self.options.calibration
        if self.options.raw:
            self.model.postprocessing = Postprocessing()
        if self.options.metrics:
            self.model.metric_names = tuple(self.options.metrics)

    def after_fit(self) -> None:
        """Write the best weights as a checkpoint folder and say where everything is."""
        if not self.trainer.is_global_zero or self.options.trainer.fast_dev_run:
            return
        root = Path(self.trainer.default_root_dir)
        kept, reasons = first_whole([root / BEST, root / LAST], WEIGHTS_ALONE)
        for reason in reasons:
            print(f"segzoo: {reason}, so it is not what is kept")
        if kept is None:
            return
        state = torch.load(kept, map_location="cpu", weights_only=True)
        contract = state.get("segzoo", {})
        if split_hashes(contract.get("data", self.model.data)) != split_hashes(self.model.data):
            raise SegzooError(
                f"{kept} is of another run, on another split, that trained in {root} meanwhile; give each run a "
                "--trainer.default_root_dir of its own"
            )
        self.model.load_state_dict(state["state_dict"])
        if contract:  # before a resume, images may have been prepared otherwise
            self.model.take_back(contract)
        folder = root
        if self.model.model_name is not None:  # else somebody's own class, which the zoo cannot load by name
            folder = self.write_checkpoint(root)
        drawn = self.pictures.finish(self.trainer, self.model)
        lines = kept_lines(self.model, folder, root, kept.stem)
        lines += best_lines(kept.stem, state.get("epoch"), self.pictures.curves, [root / name for name in drawn])
        for line in lines + (next_lines(self.given, folder) if folder != root else []):
            print(f"segzoo: {line}")

    def write_checkpoint(self, root: Path) -> Path:
        """Save the model as the run's checkpoint folder; one of the same weights keeps its version and its results."""
        folder = root / CHECKPOINT
        before = read_config(folder) if (folder / CONFIG).is_file() else None
        self.model.save_pretrained(folder, name=root.name, train_config=root / RECIPE)
        if before is not None and before.sha256[WEIGHTS] == read_config(folder).sha256[WEIGHTS]:
            record(folder, version=before.version, metrics=before.entries["metrics"])
        return folder

    def after_test(self) -> None:
        """Name the protocol and the per-image file; record the results where asked."""
        if not self.trainer.is_global_zero:
            return
        results = test_results(self.model, self.trainer)
        for line in result_lines(self.model, results, Path(self.trainer.default_root_dir)):
            print(f"segzoo: {line}")
        if warning := split_warning(self.datamodule.describe(), self.model.data):
            print(f"segzoo: {warning}, so it may have seen these images")
        if self.options.record:
            if warning:
                raise SegzooError(f"--record is for results on held-out images, and {warning}")
            refuse_other_preprocessing(self.datamodule, self.model)
            folder = Path(self.model.load_report.source)
            record(folder, metrics=results)
            print(f"segzoo: recorded in {folder}")
