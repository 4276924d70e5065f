"""The ``segzoo`` command: what it lists, predicts and refuses. Training is in test_train.py."""

import errno
import gzip
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from docs.site.commands import options_of, verbs
from PIL import Image

import segzoo
from segzoo.checkpoints.weights import sha256
from segzoo.cli import command as cli
from segzoo.cli import train as training_cli
from segzoo.cli.command import main
from segzoo.imaging.geometry import same_grid
from segzoo.imaging.images import read_image
from segzoo.imaging.volumes import read_geometry, read_volume_mask, volume_stem

SURFACE = json.loads((Path(__file__).parents[1] / "surface.json").read_text(encoding="utf-8"))
HEAVY = ("torch", "lightning", "monai", "timm", "numpy", "SimpleITK", "huggingface_hub")


def fresh(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with this segzoo."""
    path = os.pathsep.join(filter(None, [str(Path(segzoo.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkpoint(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CMUNeXt-S for images of 32 x 32, called ``tiny-busi``; it finds about half of an image."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s").eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    image = model.preprocessing(read_image(next((samples / "BUSI").rglob("benign (9).png"))))
    with torch.no_grad():
        model.head.bias -= model(image[None]).median()
    return model.save_pretrained(tmp_path_factory.mktemp("hub") / "tiny-busi")


@pytest.fixture(scope="module")
def volume_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained MedNeXt of a few channels for hippocampi, whose three classes each cover part of a volume."""
    torch.manual_seed(0)
    model = segzoo.create_model("mednext", num_classes=3, width=2)
    model.class_names = ("background", "anterior", "posterior")
    return model.save_pretrained(tmp_path_factory.mktemp("hub") / "tiny-hippocampus")


@pytest.fixture
def scans(samples: Path, tmp_path: Path) -> Path:
    """Three real volumes in a folder, one of them as NRRD."""
    folder = tmp_path / "scans"
    folder.mkdir()
    found = sorted((samples / "Task04_Hippocampus" / "imagesTr").iterdir())[:3]
    for path in found[:2]:
        shutil.copy(path, folder)
    sitk.WriteImage(sitk.ReadImage(str(found[2])), str(folder / f"{volume_stem(found[2])}.nrrd"))
    return folder


@pytest.fixture
def images(samples: Path, tmp_path: Path) -> Path:
    """Three real images in a folder, one of them as JPEG."""
    folder = tmp_path / "images"
    folder.mkdir()
    found = sorted(path for path in (samples / "BUSI").rglob("*.png") if "mask" not in path.name)[:3]
    for path in found[:2]:
        shutil.copy(path, folder)
    Image.open(found[2]).convert("RGB").save(folder / f"{found[2].stem}.jpg")
    return folder


# ---- list and info


def test_list_names_models_and_checkpoints(checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("SEGZOO_HUB", str(checkpoint.parent))
    assert main(["list"]) == 0
    models, checkpoints = capsys.readouterr().out.split("checkpoints\n")
    assert [line.split()[0] for line in models.splitlines()[1:]] == segzoo.list_models()
    assert "cmunext_s           0.42 M  CMUNeXt-S: widths 8 to 128" in models
    assert "tiny-busi" in [line.split()[0] for line in checkpoints.splitlines()]
    tiny = next(line for line in checkpoints.splitlines() if "tiny-busi" in line)
    for part in ("cmunext_s", "unknown data", "not scored", "0.42 M", "weights unlicensed", "here"):
        assert part in tiny


def test_list_names_what_is_not_usable_and_goes_on(checkpoint, monkeypatch, tmp_path, capsys):
    for name, changes in (("fine", {}), ("odd", {"metrics": None}), ("bert", None)):
        folder = shutil.copytree(checkpoint, tmp_path / name)
        config = (
            {"architectures": ["Bert"]}
            if changes is None
            else json.loads((folder / "config.json").read_text()) | changes
        )
        (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("SEGZOO_HUB", str(tmp_path))
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not scored" in lines["fine"]
    assert "not usable: " in lines["odd"]
    assert "must give its metrics as an object" in lines["odd"]
    assert f"not usable: {tmp_path / 'bert' / 'config.json'} is no segzoo checkpoint's config" in lines["bert"]
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert "error" not in listed["fine"]
    assert "its metrics as an object" in listed["odd"]["error"]
    assert listed["bert"]["folder"] == str(tmp_path / "bert")


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m segzoo.cli list --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{", "")


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segzoo.cli.listing.run_list", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "segzoo: stopped; every file that is written is complete\n"


def test_list_takes_a_pattern(checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("SEGZOO_HUB", str(checkpoint.parent))
    assert main(["list", "cmunext_?"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["models", "cmunext_l", "cmunext_s", "checkpoints"]


def test_list_for_programs(checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("SEGZOO_HUB", str(checkpoint.parent))
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert sorted(listed["models"]) == segzoo.list_models()
    assert listed["models"]["cmunext_s"]["parameters"] == 417_505
    facts = listed["checkpoints"]["tiny-busi"]
    assert (facts["model"], facts["dice"], facts["parameters"], facts["where"]) == ("cmunext_s", None, 417_505, "here")
    assert facts["bytes"] == (checkpoint / "model.safetensors").stat().st_size


def test_list_shows_published_checkpoints_with_their_scores(capsys):
    assert main(["list", "lv-unet-busi"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    for part in (
        "lv_unet",
        "BUSI",
        "Dice 0.7",
        "105 held-out images",
        "0.91 M parameters",
        "weights Apache-2.0",
        "here",
    ):
        assert part in line
    assert "data CC0-1.0" in line


def test_info_tells_of_models_and_checkpoints(checkpoint, capsys):
    assert main(["info", "lv_unet"]) == 0
    out = capsys.readouterr().out
    for part in ("934,545 parameters", "arxiv.org/abs/2408.16886", "encoder_weights:", "deep_training:"):
        assert part in out
    assert main(["info", str(checkpoint)]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"]["image_size"] == [32, 32]


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json", "*unext*"], ["--version"]])
def test_nothing_heavy_is_imported_to_answer_at_once(checkpoint, monkeypatch, arguments):
    monkeypatch.setenv("SEGZOO_HUB", str(checkpoint.parent))
    code = (
        "import contextlib, sys\n"
        "from segzoo.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({arguments!r})\n"
        f"print('imported', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = fresh("-c", code)
    assert done.stdout.splitlines()[-1] == "imported", done.stderr


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert set(SURFACE["verbs"]) <= set(listed)


# ---- predict


def test_predict_writes_masks_of_the_images_own_sizes(checkpoint, images, tmp_path, capsys):
    assert main(["predict", str(checkpoint), str(images), "--output", str(tmp_path / "new" / "masks")]) == 0
    files = sorted(images.iterdir())
    assert sorted(path.name for path in (tmp_path / "new" / "masks").iterdir()) == [f"{f.stem}.png" for f in files]
    model = segzoo.from_pretrained(checkpoint)
    printed = capsys.readouterr().out.splitlines()
    for file, line in zip(files, printed, strict=True):
        mask = np.asarray(Image.open(tmp_path / "new" / "masks" / f"{file.stem}.png"))
        assert mask.shape == Image.open(file).size[::-1]
        np.testing.assert_array_equal(mask, model.predict(file).mask)
        assert line.startswith(f"{file} -> ")
        assert line.endswith(f"(class 1 {mask.mean():.1%})")


def test_predict_draws_overlays_and_mirrors(checkpoint, images, tmp_path):
    file = sorted(images.glob("*.png"))[0]
    for options in ([], ["--tta"]):
        output = tmp_path / f"masks{len(options)}"
        assert main(["predict", str(checkpoint), str(file), "--output", str(output), "--overlay", *options]) == 0
        assert sorted(path.name for path in output.iterdir()) == [f"{file.stem}.png", f"{file.stem}_overlay.png"]
        overlay = Image.open(output / f"{file.stem}_overlay.png")
        assert (overlay.size, overlay.mode) == (Image.open(file).size, "RGB")
    plain, mirrored = (Image.open(tmp_path / f"masks{n}" / f"{file.stem}.png") for n in (0, 1))
    assert (np.asarray(plain) != np.asarray(mirrored)).any()


def test_predict_takes_16_bits_by_a_range_and_passes_a_folder_over(checkpoint, images, tmp_path, capsys):
    for file in images.iterdir():
        Image.fromarray(np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16).save(file.with_suffix(".tif"))
        file.unlink()
    (images / "scan.png").mkdir()
    command = ["predict", str(checkpoint), str(images), "--output", str(tmp_path / "masks")]
    with pytest.warns(match=r"scan\.png is a folder"):
        assert main(command) == 2
    assert "--intensity-range" in str(capsys.readouterr().err)
    for low, said in (("0", "->"), ("0", "3 of 3 were done before"), ("100", "->")):
        with pytest.warns(match=r"scan\.png is a folder"):
            assert main([*command, "--intensity-range", low, "4080"]) == 0
        assert said in capsys.readouterr().out
    model = segzoo.from_pretrained(checkpoint)
    file = sorted(images.glob("*.tif"))[0]
    shown = np.clip((np.asarray(Image.open(file)) - 100.0) * 255 / 3980, 0, 255).round().astype(np.uint8)
    np.testing.assert_array_equal(Image.open(tmp_path / "masks" / f"{file.stem}.png"), model.predict(shown).mask)


def test_a_range_is_not_for_models_of_volumes(volume_checkpoint, scans, tmp_path, capsys):
    command = ["predict", str(volume_checkpoint), str(scans), "--output", str(tmp_path / "masks")]
    assert main([*command, "--intensity-range", "0", "4095"]) == 2
    assert "intensity_range" in capsys.readouterr().err


def test_predict_takes_names_files_and_folders_together(checkpoint, images, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGZOO_HUB", str(checkpoint.parent))
    inputs = [str(sorted(images.iterdir())[0]), str(images)]  # the first is named twice, and that is no mistake
    assert main(["predict", "tiny-busi", *inputs, "--output", str(tmp_path / "masks")]) == 0
    assert len(list((tmp_path / "masks").iterdir())) == 3


def test_predict_writes_masks_of_volumes_beside_their_names(volume_checkpoint, scans, tmp_path, capsys):
    output = tmp_path / "segs"
    arguments = ["predict", str(volume_checkpoint), str(scans), "--output", str(output), "--overlay"]
    assert main([*arguments, "--overlap", "0.25"]) == 0
    files = sorted(scans.iterdir())
    overlays = [f"{volume_stem(file)}_overlay.png" for file in files]
    assert sorted(path.name for path in output.iterdir()) == sorted([*(file.name for file in files), *overlays])
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1  # what was loaded
    model = segzoo.from_pretrained(volume_checkpoint)
    for file, line in zip(files, printed.out.splitlines(), strict=True):
        mask, geometry = read_volume_mask(output / file.name)
        assert same_grid(geometry, read_geometry(file))
        np.testing.assert_array_equal(mask, model.predict(file).mask)
        assert line == (
            f"{file} -> {output / file.name} (anterior {(mask == 1).mean():.1%}, posterior {(mask == 2).mean():.1%})"
        )
        assert Image.open(output / f"{volume_stem(file)}_overlay.png").size[0] > 500


def test_a_model_for_images_takes_folders_of_both(checkpoint, images, scans, tmp_path):
    file = sorted(scans.glob("*.nii.gz"))[0]
    shutil.copy(file, images)
    assert main(["predict", str(checkpoint), str(images), "--output", str(tmp_path / "masks")]) == 0
    written = {path.name for path in (tmp_path / "masks").iterdir()}
    assert written == {file.name, *(f"{path.stem}.png" for path in images.iterdir() if path.name != file.name)}
    assert same_grid(read_geometry(tmp_path / "masks" / file.name), read_geometry(file))


def test_what_cannot_be_segmented_does_not_stop_the_others(volume_checkpoint, scans, tmp_path, capsys):
    good = sorted(path.name for path in scans.iterdir())
    first = sorted(scans.glob("*.nii.gz"))[0]
    (scans / "a.nii.gz").write_bytes(first.read_bytes()[:9000])
    Image.new("L", (8, 8)).save(scans / "b.png")
    assert main(["predict", str(volume_checkpoint), str(scans), "--output", str(tmp_path / "segs")]) == 2
    assert sorted(path.name for path in (tmp_path / "segs").iterdir()) == good
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    loaded, truncated, picture, last = printed.err.splitlines()
    assert "tensors loaded" in loaded
    assert re.search(r"not segmented: Cannot read .*a\.nii\.gz: the gzip file is cut short", truncated)
    assert re.search(r"not segmented: This model segments volumes .*, and .*b\.png is none", picture)
    assert re.search(r"error: 2 of 5 inputs were not segmented, the first because: Cannot read .*a\.nii\.gz", last)


# ---- bad input


class Payload:
    """Says by a file that it was run when unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.witness,)


def paired(folder: Path, count: int = 6) -> Path:
    """A dataset for ``Folder``."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture
def here(tmp_path: Path, checkpoint: Path, volume_checkpoint: Path, images: Path, scans: Path) -> SimpleNamespace:
    """What the cases below spoil."""
    return SimpleNamespace(
        root=tmp_path,
        checkpoint=shutil.copytree(checkpoint, tmp_path / "checkpoint"),
        images=images,
        volume_checkpoint=volume_checkpoint,
        scans=scans,
        data=paired(tmp_path / "data"),
        witness=tmp_path / "witness",
    )


Case = Callable[[SimpleNamespace], list[Any]]


def predict(here: SimpleNamespace, *inputs: Any, checkpoint: Any = None, output: Any = None) -> list[Any]:
    inputs = inputs or (here.images,)
    return ["predict", checkpoint or here.checkpoint, *inputs, "--output", output or here.root / "masks"]


def fit(here: SimpleNamespace, *options: Any, model: str = "cmunext_s", data: str = "Folder") -> list[Any]:
    run = ["--trainer.default_root_dir", here.root / "run", "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    run += ["--trainer.enable_progress_bar", "false", "--data.image_size", 16]
    return ["fit", "--model", model, "--data", data, "--data.root", here.data, *run, *options]


def score(here: SimpleNamespace, *options: Any) -> list[Any]:
    run = ["--trainer.default_root_dir", here.root / "run", "--trainer.accelerator", "cpu"]
    data = ["--data", "Folder", "--data.root", here.data, "--data.split", "all"]
    return ["test", "--model", here.checkpoint, *data, *run, "--trainer.enable_progress_bar", "false", *options]


def without_mask(here: SimpleNamespace) -> list[Any]:
    (here.data / "masks" / "3.png").unlink()
    return fit(here)


def mask_of_another_size(here: SimpleNamespace) -> list[Any]:
    Image.new("L", (31, 32)).save(here.data / "masks" / "3.png")
    return score(here)


def corrupt(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])  # the header survives: only reading finds out


def corrupt_to_predict(here: SimpleNamespace) -> list[Any]:
    corrupt(here.images / "broken.png")
    return predict(here)


def corrupt_to_test(here: SimpleNamespace) -> list[Any]:
    corrupt(here.data / "images" / "3.png")
    return score(here)


def corrupt_in_a_worker(here: SimpleNamespace) -> list[Any]:
    return [*corrupt_to_test(here), "--data.num_workers", 1]


def no_image(here: SimpleNamespace) -> list[Any]:
    (here.root / "text.png").write_text("no image")
    return predict(here, here.root / "text.png")


def empty_folder(here: SimpleNamespace) -> list[Any]:
    (here.root / "empty").mkdir()
    return predict(here, here.root / "empty")


def same_stems(here: SimpleNamespace) -> list[Any]:
    first = sorted(here.images.glob("*.png"))[0]
    Image.open(first).convert("RGB").save(first.with_suffix(".bmp"))
    return predict(here)


def mask_and_overlay_of_one_name(here: SimpleNamespace) -> list[Any]:
    first = sorted(here.images.glob("*.png"))[0]
    shutil.copy(first, first.with_name(f"{first.stem}_overlay.png"))
    return [*predict(here), "--overlay"]


def volumes_of_one_name(here: SimpleNamespace) -> list[Any]:
    shutil.copy(sorted(here.scans.glob("*.nii.gz"))[0], here.scans / "a.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(here.scans / "a.nii.gz")), str(here.scans / "a.nrrd"))
    return [*predict(here, here.scans, checkpoint=here.volume_checkpoint), "--overlay"]


def no_volume(here: SimpleNamespace) -> list[Any]:
    return predict(here, sorted(here.images.glob("*.png"))[0], checkpoint=here.volume_checkpoint)


def bad_volume(here: SimpleNamespace, change: Callable[[sitk.Image], sitk.Image]) -> list[Any]:
    scan = sitk.Cast(sitk.ReadImage(str(sorted(here.scans.glob("*.nii.gz"))[0])), sitk.sitkFloat32)
    sitk.WriteImage(change(scan), str(here.root / "bad.nii.gz"))
    return predict(here, here.root / "bad.nii.gz", checkpoint=here.volume_checkpoint)


def truncated_volume(here: SimpleNamespace) -> list[Any]:
    arguments = bad_volume(here, lambda scan: scan)
    content = (here.root / "bad.nii.gz").read_bytes()
    (here.root / "bad.nii.gz").write_bytes(content[: len(content) // 2])
    return arguments


def zero_spacing(here: SimpleNamespace) -> list[Any]:
    arguments = bad_volume(here, lambda scan: scan)
    content = bytearray(gzip.decompress((here.root / "bad.nii.gz").read_bytes()))
    content[80:84] = bytes(4)
    (here.root / "bad.nii.gz").write_bytes(gzip.compress(content))
    return arguments


def wrong_channels(here: SimpleNamespace) -> list[Any]:
    five = segzoo.create_model("cmunext_s", in_channels=5)
    return predict(here, checkpoint=five.save_pretrained(here.root / "five"))


def tampered_weights(here: SimpleNamespace) -> list[Any]:
    file = here.checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return predict(here)


def pickled_weights(here: SimpleNamespace) -> list[Any]:
    """A pickle under the right name, with the right hash."""
    (here.checkpoint / "model.safetensors").write_bytes(pickle.dumps(Payload(here.witness)))
    config = json.loads((here.checkpoint / "config.json").read_text())
    config["sha256"]["model.safetensors"] = sha256(here.checkpoint / "model.safetensors")
    (here.checkpoint / "config.json").write_text(json.dumps(config))
    return predict(here)


def pickled_encoder(here: SimpleNamespace) -> list[Any]:
    torch.save({"weights": Payload(here.witness)}, here.root / "encoder.pth")
    return fit(here, "--model.encoder_weights", here.root / "encoder.pth", model="lv_unet")


def pickled_run(here: SimpleNamespace) -> list[Any]:
    torch.save({"state_dict": Payload(here.witness)}, here.root / "last.ckpt")
    return fit(here, "--ckpt_path", here.root / "last.ckpt")


def run_of_another_model(here: SimpleNamespace) -> list[Any]:
    state = {"state_dict": {"layer": torch.zeros(1)}, "pytorch-lightning_version": "2.6.0", "loops": None}
    state |= {"epoch": 0, "global_step": 0, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save(state, here.root / "last.ckpt")
    return fit(here, "--ckpt_path", here.root / "last.ckpt")


def line_break_in_a_name(here: SimpleNamespace) -> list[Any]:
    (here.data / "images" / "3.png").rename(here.data / "images" / "scan\n3.png")
    return fit(here)


def lost_weights(here: SimpleNamespace) -> list[Any]:
    (here.checkpoint / "model.safetensors").unlink()
    return predict(here)


def broken_config(here: SimpleNamespace) -> list[Any]:
    (here.checkpoint / "config.json").write_text('{"format": 1')
    return predict(here)


def no_checkpoint_folder(here: SimpleNamespace) -> list[Any]:
    return predict(here, checkpoint=here.images)


def folder_with_a_run(here: SimpleNamespace) -> list[Any]:
    (here.root / "run").mkdir()
    (here.root / "run" / "last.ckpt").touch()
    return fit(here)


def unknown_class(here: SimpleNamespace) -> list[Any]:
    Image.fromarray(np.full((32, 32), 7, np.uint8)).save(here.data / "masks" / "3.png")
    return score(here)


CASES: dict[str, tuple[Case, str]] = {
    "unknown model to fit": (lambda here: fit(here, model="lv_unett"), r"no .*'lv_unett' \(did you mean lv_unet"),
    "unknown name to info": (lambda here: ["info", "cmunext_z"], r"no .*'cmunext_z' \(did you mean cmunext"),
    "unknown checkpoint to predict": (
        lambda here: predict(here, checkpoint="lv-unet-bus"),
        r"no checkpoint 'lv-unet-bus'",
    ),
    "unknown checkpoint to test": (lambda here: ["test", "--model", "x-y", "--data", "BUSI"], r"no checkpoint 'x-y'"),
    "unknown dataset": (lambda here: fit(here, data="Folders"), r"no dataset 'Folders' \(did you mean Folder\?\)"),
    "unknown option of the model": (lambda here: fit(here, "--model.depht", 3), r"'depht' is not accepted"),
    "rate of no optimizer": (
        lambda here: fit(here, "--optimizer.lr", "1e-4"),
        r"--optimizer\.lr is given without --optimizer, .* --optimizer AdamW --optimizer\.lr 1e-4",
    ),
    "option of no schedule": (
        lambda here: fit(here, "--lr_scheduler.gamma", "0.1"),
        r"--lr_scheduler\.gamma is given without --lr_scheduler, .* --lr_scheduler StepLR --lr_scheduler\.step_size 30",
    ),
    "unknown option of the trainer": (lambda here: fit(here, "--trainer.epochs", 3), r"--trainer\.epochs"),
    "wrong value": (lambda here: fit(here, "--trainer.max_epochs", "many"), r"trainer\.max_epochs.*Expected.*int"),
    "classes that are words of YAML": (
        lambda here: fit(here, "--data.class_names", "[background,yes]"),
        r'"class_names".* True; .*"no","yes"',
    ),
    "classes that are numbers": (lambda here: fit(here, "--data.class_names", "[0,1]"), r'"class_names".*"no","yes"'),
    "barebones": (lambda here: fit(here, "--trainer.barebones", "true"), r"--trainer\.barebones"),
    "line break in the name of an image without mask": (line_break_in_a_name, r"images/scan\\n3\.png has no mask"),
    "root that is not UTF-8": (
        lambda here: fit(here, "--data.root", os.fsdecode(b"M\xfcller")),
        r"M\\udcfcller .*UTF-8",
    ),
    "unknown split": (lambda here: fit(here, "--data.split", "half"), r"Unknown split 'half'; choose one of grouped"),
    "no data": (lambda here: ["fit", "--model", "lv_unet"], r"required: --data"),
    "no configuration file": (lambda here: ["fit", "-c", "none.yaml"], r"File does not exist: .*none\.yaml"),
    "missing data": (
        lambda here: fit(here, "--data.root", here.root / "none"),
        r"none does not exist: expected images",
    ),
    "missing image": (lambda here: predict(here, here.root / "none.png"), r"no file or folder .*none\.png"),
    "folder without images": (empty_folder, r"empty holds no image"),
    "image without mask": (without_mask, r"images/3\.png has no mask"),
    "mask of another size": (mask_of_another_size, r"3\.png is 32 x 31 .*, its image .*3\.png is 32 x 32"),
    "mask value that is no class": (unknown_class, r"masks/3\.png holds \d+ values up to 7"),
    "corrupt image to predict": (corrupt_to_predict, r"Cannot read .*broken\.png"),
    "corrupt image to test": (corrupt_to_test, r"^segzoo: error: Cannot read .*images/3\.png"),
    "corrupt image in a worker": (corrupt_in_a_worker, r"^segzoo: error: Cannot read .*images/3\.png"),
    "text as an image": (no_image, r"Cannot read .*text\.png"),
    "images of one name": (same_stems, r"would both be written to"),
    "masks over images": (lambda here: predict(here, output=here.images), r"lies in the output folder"),
    "mask and overlay of one name": (mask_and_overlay_of_one_name, r"would both be written to .*_overlay\.png"),
    "overlays of one name": (volumes_of_one_name, r"a\.nii\.gz and .*a\.nrrd would both be written to a_overlay\.png"),
    "image where volumes are needed": (no_volume, r"This model segments volumes \(\.nii\.gz, .*\.png is none"),
    "NaN voxels": (lambda here: bad_volume(here, lambda scan: scan / 0), r"bad\.nii\.gz holds NaN or infinite voxels"),
    "4D volume": (
        lambda here: bad_volume(here, lambda scan: sitk.JoinSeries([scan, scan])),
        r"bad\.nii\.gz is 4D .* where a 3D volume is expected",
    ),
    "2D volume": (lambda here: bad_volume(here, lambda scan: scan[:, :, 3]), r"bad\.nii\.gz is 2D where a 3D"),
    "truncated volume": (truncated_volume, r"Cannot read .*bad\.nii\.gz: the gzip file is cut short"),
    "zero spacing": (zero_spacing, r"bad\.nii\.gz has a spacing of 0 x 1 x 1 mm"),
    "overlap of one": (
        lambda here: [*predict(here, here.scans, checkpoint=here.volume_checkpoint), "--overlap", 1],
        r"^segzoo: error: overlap must be at least 0 and below 1, not 1\.0",  # once, and before anything is read
    ),
    "wrong channel count": (wrong_channels, r"[134] channels? where 5 are needed"),
    "tampered weights": (tampered_weights, r"model\.safetensors is not the file this checkpoint was saved with"),
    "pickle as weights": (pickled_weights, r"model\.safetensors is not a safetensors file"),
    "pickle as encoder": (pickled_encoder, r"encoder\.pth is not a safetensors file"),
    "pickle as a run": (pickled_run, r"--ckpt_path .* pickles are not loaded"),
    "run of another model": (run_of_another_model, r"--ckpt_path names the run of another model"),
    "lost weights": (lost_weights, r"lacks its file model\.safetensors"),
    "broken config": (broken_config, r"config\.json cannot be read as JSON"),
    "folder that is no checkpoint": (no_checkpoint_folder, r"images holds no config\.json"),
    "no run to continue": (lambda here: fit(here, "--ckpt_path", "none.ckpt"), r"no file none\.ckpt for --ckpt_path"),
    "no run to test": (
        lambda here: score(here, "--ckpt_path", "last"),
        r"no file .*run/last\.ckpt for --ckpt_path last",
    ),
    "folder with a run": (folder_with_a_run, r"run already holds a run: add --ckpt_path last"),
    "classes that do not fit": (lambda here: fit(here, "--model.num_classes", 3), r"has the classes background, fore"),
    "recording what is averaged": (
        lambda here: score(here, "--record", "true", "--tta", "true"),
        r"--record is for what a checkpoint scores without --tta",
    ),
    "nothing to record into": (
        lambda here: [*score(here, "--record", "true")[:2], "cmunext_s", *score(here, "--record", "true")[3:]],
        r"--record writes into a checkpoint folder",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_answered_in_one_sentence(case, here, capsys, monkeypatch):
    spoil, wanted = CASES[case]
    arguments = [str(argument) for argument in spoil(here)]
    monkeypatch.chdir(here.root)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("segzoo: error:")]
    assert line == err.splitlines()[-1]
    assert re.search(wanted, line), line
    assert not here.witness.exists()
    assert len(line) < 500


def test_the_payload_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "witness")))
    assert (tmp_path / "witness").exists()


def test_a_shell_sees_the_status_and_the_sentence():
    done = fresh("-m", "segzoo.cli", "info", "lv_unett")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("segzoo: error: there is no ")
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("segzoo.cli.listing.run_list", lambda options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list"])
    monkeypatch.setattr(training_cli, "TrainingCLI", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["fit"])


# ---- the frozen surface


def test_the_public_names_are_the_frozen_ones():
    assert sorted(segzoo.__all__) == SURFACE["segzoo"]
    assert sorted(segzoo.data.__all__) == SURFACE["segzoo.data"]
    for name in segzoo.__all__:
        assert getattr(segzoo, name) is not None
    assert set(segzoo.__all__) <= set(dir(segzoo))


def test_the_command_line_is_the_frozen_one():
    assert {verb: sorted(name for name, _ in options_of(parser)) for verb, _, parser in verbs()} == SURFACE["verbs"]


# ---- sentences


@pytest.mark.parametrize(
    "words", [("predict", "mine", "a\nb\x1b[31m\u202e", "--output", "c"), ("info", "mine", "a\nb")]
)
def test_what_would_break_a_line_or_steer_a_terminal_is_written_out(words, capsys):
    try:
        status = main(list(words))
    except SystemExit as ending:  # argparse's
        status = ending.code
    *_, last = capsys.readouterr().err.splitlines()
    assert status == 2
    assert last.startswith("segzoo")
    assert r"a\nb" in last
    assert last.isprintable()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_system_is_one_sentence_even_without_a_file(monkeypatch, capfd, number):
    def run(options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cli, "imported", lambda path: run)
    monkeypatch.setattr(cli, "drop_output", lambda: None)  # that of the tests
    assert main(["list"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("segzoo: error: ")
    assert os.strerror(number) in line


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("maximum depth"), UnicodeError("surrogates")])
def test_what_no_place_has_caught_is_one_sentence(monkeypatch, capsys, error):
    def run(options):
        raise error

    monkeypatch.setattr(cli, "imported", lambda path: run)
    assert main(["list"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("segzoo: error: ")
    assert said.endswith(f"({str(error) or 'MemoryError'})")
