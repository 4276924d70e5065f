"""Segment the sample ultrasound images with the shipped checkpoint and compare with the true masks: `make demo`."""

from pathlib import Path

import torch
from PIL import Image, ImageOps

import segzoo
from segzoo.data.samples import read_label
from segzoo.imaging.overlay import draw_overlay
from segzoo.metrics.per_image import image_scores

CHECKPOINT = "lv-unet-busi"
REPOSITORY = Path(__file__).parents[1]
# The samples in the test part of the split that the checkpoint was trained on (BUSI, grouped, fold 0). The others
# taught it or chose its best epoch, and so do not test it.
HELD_OUT = ("benign (181)", "benign (84)", "malignant (35)")


def main() -> None:
    """Write masks and overlays to demo/ and print the Dice of every image."""
    output = REPOSITORY / "demo"
    output.mkdir(exist_ok=True)
    model = segzoo.from_pretrained(CHECKPOINT)
    scores, columns = {}, []
    for sample in segzoo.data.BUSI(REPOSITORY / "tests" / "samples" / "BUSI").samples():
        result = model.predict(sample.image)
        result.save(output / f"{sample.id}_mask.png")
        result.overlay().save(output / f"{sample.id}_overlay.png")

        truth = read_label(sample, num_classes=2, multilabel=False)  # the union of the image's masks
        dice = image_scores(torch.from_numpy(result.mask)[None], torch.from_numpy(truth)[None])[0]["dice"]
        print(f"{sample.id:<16} Dice {dice:.3f}   {'held out' if sample.id in HELD_OUT else 'used in training'}")
        if sample.id in HELD_OUT:
            scores[sample.id] = dice
            both = draw_overlay(result.image, [result.mask == 1, truth == 1])
            columns.append((Image.open(sample.image), both))
    overview(columns).save(output / "overview.png")

    mean = sum(scores.values()) / len(scores)
    print(f"{'mean':<16} Dice {mean:.3f}   of the {len(scores)} held-out images; on the others Dice tests nothing")
    print(f"\nIn {output}: a mask (0 background, 1 lesion) and an overlay of every image, and overview.png, the")
    print("held-out images with the lesion as predicted (orange) and as the dataset has it (blue).")


def overview(columns: list[tuple[Image.Image, ...]], width: int = 320, height: int = 224) -> Image.Image:
    """One picture out of columns of pictures."""
    page = Image.new("RGB", (width * len(columns), height * len(columns[0])), "white")
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            fitted = ImageOps.pad(picture.convert("RGB"), (width, height), color="white")
            page.paste(fitted, (x * width, y * height))
    return page


if __name__ == "__main__":
    main()
