"""Pictures of a training: what validation images look like segmented, and the curves of losses and Dice."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from segzoo.errors import first_line
from segzoo.imaging.overlay import draw_overlay, to_uint8
from segzoo.metrics.per_image import image_scores
from segzoo.metrics.scatter import COLOURS, alike
from segzoo.network import SegmentationNetwork
from segzoo.paths import write_whole
from segzoo.preprocessing.image import Preprocessing

EXAMPLES, CURVES = "examples.png", "curves.png"
EVERY = 5  # epochs between two pictures
WATCHED = 64  # validation images that are kept for the picture: some megabytes
ALWAYS = 3  # of them that are always shown, beside the worst and the median
SIDE, CAPTION, GAP = 224, 18, 4  # sizes in pixels
CURVE_NAMES = ("train/loss", "val/loss", "val/dice")


@dataclass(frozen=True)
class Seen:
    """Validation image as it is drawn, a volume by the slice that most of its label lies in.

    Args:
        name: of the image.
        image: uint8 [H, W, C].
        truth: [H, W] or [K, H, W], as labels are.
        slice: number of the slice of a volume.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    slice: int | None


@dataclass
class Epoch:
    """Result of a validation.

    Args:
        number: of the epoch.
        dice: of each watched image, by its place in the validation part.
        masks: of these, as drawn.
    """

    number: int
    dice: dict[int, float] = field(default_factory=dict)
    masks: dict[int, np.ndarray] = field(default_factory=dict)


class RunPictures(Callback):
    """Callback that draws ``examples.png`` and ``curves.png`` into the run's folder every few epochs.

    Examples are the same validation images each time, and before them the worst and the median one of up to 64; of
    several processes, of those that the first one validates. Nothing that goes wrong here ends a training.

    Attributes:
        every: epochs between two pictures; 0 draws none.
        curves: epoch -> name -> value, of the whole run.
        best: epoch of the best Dice, among those whose weights may be deployed.
    """

    def __init__(self) -> None:
        self.every = EVERY
        self.curves: dict[int, dict[str, float]] = {}
        self.best: int | None = None
        self._seen: dict[int, Seen] = {}
        self._now: Epoch | None = None
        self._of_best: Epoch | None = None
        self._place = self._step = 0
        self._drawn: int | None = None
        self._due = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on draws its curves from."""
        return {"curves": self.curves, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take that back."""
        self.curves, self.best = dict(state_dict["curves"]), state_dict["best"]

    # ---- what is seen

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew with the first image."""
        images = len(getattr(trainer.val_dataloaders, "dataset", ()))  # of a loader of somebody's own perhaps unknown
        self._step = max(1, math.ceil(images / trainer.world_size / WATCHED))
        self._place, self._now = 0, Epoch(trainer.current_epoch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the masks of watched images, and what their Dice is."""
        if not (self.draws(trainer) and trainer.is_global_zero and isinstance(pl_module, SegmentationNetwork)):
            return
        if self._now is None or not (isinstance(outputs, dict) and "mask" in outputs):
            return  # a step of somebody's own
        for index in range(len(batch["image"])):
            place, self._place = self._place, self._place + 1
            if place % self._step == 0 and len(self._now.dice) < WATCHED:
                self.watch(self._now, place, pl_module, batch, outputs["mask"], index)

    def watch(self, now: Epoch, place: int, model: SegmentationNetwork, batch: Any, masks: Tensor, index: int) -> None:
        """Keep one image of a batch."""
        mask, label = masks[index : index + 1], batch["label"][index : index + 1]
        (scores,) = image_scores(mask, label, model.num_classes, model.multilabel, ["dice"])
        now.dice[place] = scores["dice"]
        if place not in self._seen:
            name = str(batch["id"][index]) if "id" in batch else str(place)
            self._seen[place] = seen(name, batch["image"][index], label[0], model)
        now.masks[place] = reduced(sliced(mask[0].cpu().numpy().astype(np.int16), self._seen[place].slice))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the scores; draw the examples where it is time to."""
        now, self._now = self._now, None
        if now is None or not self.draws(trainer):
            return
        self.note(trainer, ("val/loss", "val/dice"))
        if getattr(pl_module, "competes_for_best", True) and self.dice_of(now.number) > self.dice_of(self.best):
            self.best, self._of_best = now.number, now
        if self._drawn is None or now.number - self._drawn >= self.every:
            self._drawn, self._due = now.number, True
            self.draw_examples(trainer, pl_module, now)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the loss; draw the curves where the examples were drawn."""
        if not self.draws(trainer):
            return
        self.note(trainer, ("train/loss",))
        if self._due:
            self._due = False
            self.draw_curves(trainer)

    def dice_of(self, epoch: int | None) -> float:
        """Return the mean Dice of the validation images after an epoch."""
        return self.curves.get(-1 if epoch is None else epoch, {}).get("val/dice", -math.inf)

    def draws(self, trainer: Trainer) -> bool:
        """Return whether this training has pictures."""
        return self.every > 0 and trainer.state.fn == "fit" and not trainer.sanity_checking

    def note(self, trainer: Trainer, names: Sequence[str]) -> None:
        """Keep what was logged in this epoch."""
        found = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
        self.curves.setdefault(trainer.current_epoch, {}).update(found)

    # ---- what is drawn

    def finish(self, trainer: Trainer, model: SegmentationNetwork) -> list[str]:
        """Draw the best epoch, and the curves with all epochs; return the files that there are."""
        if self.every > 0 and self._of_best is not None:
            self.draw_examples(trainer, model, self._of_best)
        if self.every > 0:
            self.draw_curves(trainer)
        root = Path(trainer.default_root_dir)
        return [name for name in (EXAMPLES, CURVES) if (root / name).is_file()]

    def draw_examples(self, trainer: Trainer, model: LightningModule, epoch: Epoch) -> None:
        """Write ``examples.png`` of one epoch."""
        if trainer.is_global_zero and epoch.dice and isinstance(model, SegmentationNetwork):
            images = len(getattr(trainer.val_dataloaders, "dataset", ()))
            try:
                sheet = example_sheet(self._seen, epoch, model.multilabel, model.task.named_classes, images)
                save(sheet, Path(trainer.default_root_dir) / EXAMPLES)
            except Exception as error:  # no picture is worth a training
                rank_zero_warn(f"{EXAMPLES} is not drawn: {first_line(error) or type(error).__name__}")

    def draw_curves(self, trainer: Trainer) -> None:
        """Write ``curves.png`` of the epochs so far, where there are two to draw a line between."""
        if trainer.is_global_zero and len(self.curves) > 1 and find_spec("matplotlib") is not None:
            try:
                draw_curves(self.curves, self.best, Path(trainer.default_root_dir) / CURVES)
            except Exception as error:  # likewise
                rank_zero_warn(f"{CURVES} is not drawn: {first_line(error) or type(error).__name__}")


def seen(name: str, image: Tensor, label: Tensor, model: SegmentationNetwork) -> Seen:
    """Return a validation image as it is drawn."""
    truth = label.cpu().numpy().astype(np.int16)
    number = None if image.ndim == 3 else fullest_slice(truth, multilabel=model.multilabel)
    pixels = image.float().cpu().numpy()
    contract = model.preprocessing
    if isinstance(contract, Preprocessing):
        mean, std = (np.array(values)[:, None, None] for values in (contract.mean, contract.std))
        grey = np.clip(255 * (pixels * std + mean), 0, 255).round().astype(np.uint8)
    else:
        grey = to_uint8(sliced(pixels, number)[0])[None]
    shown = grey if len(grey) == 3 else grey[:1]
    return Seen(name, reduced(shown).transpose(1, 2, 0), reduced(sliced(truth, number)), number)


def fullest_slice(truth: np.ndarray, *, multilabel: bool) -> int:
    """Return the slice of a label [D, H, W] or [K, D, H, W] that holds most foreground; the middle where none does."""
    marked = (truth > 0).any(axis=0) if multilabel else truth > 0
    areas = marked.sum(axis=(-2, -1))
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def sliced(array: np.ndarray, number: int | None) -> np.ndarray:
    """Return one slice of [..., D, H, W]; what is of an image as it is."""
    return array if number is None else array[..., number, :, :]


def reduced(array: np.ndarray) -> np.ndarray:
    """Return every so many pixels of [..., H, W], for it to be small."""
    step = math.ceil(max(array.shape[-2:]) / (2 * SIDE))
    return np.ascontiguousarray(array[..., ::step, ::step])


def example_sheet(known: Mapping[int, Seen], epoch: Epoch, multilabel: bool, classes: int, images: int) -> Image.Image:
    """Draw image, truth and prediction of some images, one a row.

    Args:
        known: the images, by their places.
        epoch: of which they are.
        multilabel: each class has a mask of its own.
        classes: number of class names.
        images: of the validation part.
    """
    ranked = sorted(epoch.dice, key=lambda place: (0.0 if math.isnan(epoch.dice[place]) else epoch.dice[place], place))
    places = sorted(epoch.dice)
    same = [places[number] for number in np.linspace(0, len(places) - 1, ALWAYS).round().astype(int)]
    of = f"of {len(places)}" + (f" that are watched of {images}" if images > len(places) else "")
    rows = [(f"worst {of}", ranked[0]), (f"median {of}", ranked[len(ranked) // 2])]
    rows += [("", place) for place in dict.fromkeys(same) if place not in (ranked[0], ranked[len(ranked) // 2])]
    height = CAPTION + len(rows) * (CAPTION + SIDE + GAP)
    sheet = Image.new("RGB", (3 * SIDE + 2 * GAP, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, title in enumerate(("image", "truth", f"prediction, epoch {epoch.number}")):
        pen.text((column * (SIDE + GAP) + 2, 1), title, "black", font)
    for number, (words, place) in enumerate(rows):
        top = CAPTION + number * (CAPTION + SIDE + GAP)
        one = known[place]
        said = f"{words}: " if words else ""
        where = "" if one.slice is None else f", slice {one.slice}"
        pen.text((2, top + 1), f"{said}{one.name[:60]}{where}, Dice {epoch.dice[place]:.3f}", "black", font)
        for column, label in enumerate((None, one.truth, epoch.masks[place])):
            masks = [] if label is None else class_masks(label, multilabel, classes)
            sheet.paste(panel(one.image, masks), (column * (SIDE + GAP), top + CAPTION))
    return sheet


def panel(image: np.ndarray, masks: Sequence[np.ndarray]) -> Image.Image:
    """Draw masks on their image at the size of a panel, where outlines are a pixel wide."""
    grey = image[..., 0] if image.shape[2] == 1 else image
    shown = ImageOps.contain(Image.fromarray(grey), (SIDE, SIDE))
    resized = [np.array(Image.fromarray(mask).resize(shown.size, Image.Resampling.NEAREST)) for mask in masks]
    return draw_overlay(np.array(shown).reshape(shown.height, shown.width, -1), resized)


def class_masks(label: np.ndarray, multilabel: bool, classes: int) -> list[np.ndarray]:
    """Return a boolean [H, W] for each class but the background."""
    if multilabel:
        return [mask > 0 for mask in label]
    return [label == number for number in range(1, classes)]


def draw_curves(curves: Mapping[int, Mapping[str, float]], best: int | None, path: Path) -> None:
    """Draw losses and Dice by epoch, and a line where these were best."""
    from matplotlib.figure import Figure

    lines = {
        name: [(epoch, curves[epoch][name]) for epoch in sorted(curves) if name in curves[epoch]]
        for name in CURVE_NAMES
    }
    with alike():
        figure = Figure((8, 3), 120, layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, title, names in zip(panels, ("loss", "Dice"), (CURVE_NAMES[:2], CURVE_NAMES[2:]), strict=True):
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            for name, colour in zip(names, COLOURS, strict=False):
                if lines[name]:
                    axes.plot(*zip(*lines[name], strict=True), color=colour, label=name, marker=".")
            if axes.lines:
                axes.legend(frameon=False)
        if best is not None:
            panels[1].set_title(f"Dice, best in epoch {best}: {curves[best]['val/dice']:.3f}")
            panels[1].axvline(best, color="grey", linestyle=":")
        contents = io.BytesIO()
        figure.savefig(contents, format="png")
    write_whole(path, contents.getvalue())


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    contents = io.BytesIO()
    picture.save(contents, format="png")
    write_whole(path, contents.getvalue())
