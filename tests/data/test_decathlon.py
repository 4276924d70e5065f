"""`Decathlon` on six real cases of the Decathlon's hippocampus task, in its own layout and in nnU-Net's."""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from lightning.pytorch import seed_everything
from torch.testing import assert_close

from segzoo.data import Decathlon, VolumeAugmentation
from segzoo.data import volume_dataset as dataset_module
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.volumes import read_geometry
from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing

CASES = [f"hippocampus_{number}" for number in (148, 149, 165, 221, 319, 320)]
PATCH = (16, 24, 16)


@pytest.fixture(scope="module")
def task(samples: Path) -> Path:
    return samples / "Task04_Hippocampus"


@pytest.fixture
def copy(task: Path, tmp_path: Path) -> Path:
    """The six cases, to change."""
    shutil.copytree(task, tmp_path / "task")
    return tmp_path / "task"


def description(root: Path, **changes: Any) -> None:
    """Change dataset.json; None takes an entry away."""
    path = root / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], **moved: Any) -> None:
    """Change a file's voxels, or its spacing and origin."""
    old = sitk.ReadImage(str(path))
    new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(old)))
    if new.GetSize() == old.GetSize():
        new.CopyInformation(old)
    for name, value in moved.items():
        getattr(new, f"Set{name}")(value)
    sitk.WriteImage(new, str(path))


def same(voxels: np.ndarray) -> np.ndarray:
    return voxels


def read(data: Decathlon) -> list[dict[str, Any]]:
    return list(data.test_dataloader())


def with_model(data: Decathlon, preprocessing: Any) -> Decathlon:
    """As a Trainer does it, as far as a DataModule looks."""
    module = SimpleNamespace(preprocessing=preprocessing)
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, lightning_module=module)
    return data


# ---- batches


def test_training_batches_are_patches(task):
    data = Decathlon(task, patch_size=PATCH)
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"image", "label", "id"}
    assert batch["image"].shape == (2, 1, *PATCH)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (2, *PATCH)
    assert batch["label"].dtype == torch.int64
    assert set(batch["label"].unique().tolist()) <= {-1, 0, 1, 2}
    assert data.class_names == ("background", "Anterior", "Posterior")


def test_evaluation_batches_are_whole_volumes(task):
    data = Decathlon(task, split="all")
    batches = read(data)
    assert [batch["id"] for batch in batches] == [[case] for case in CASES]
    for batch in batches:
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(task / "labelsTr" / f"{batch['id'][0]}.nii.gz")))
        (original,), (geometry,) = batch["original_label"], batch["geometry"]
        np.testing.assert_array_equal(original.numpy(), stored)
        assert original.dtype == torch.int64
        assert geometry.shape == stored.shape
        assert_close(batch["label"][0], original)  # the files are RAS at 1 mm, as the network wants them
        assert batch["image"].shape == (1, 1, *stored.shape)
        assert_close(batch["image"].std(correction=0), torch.tensor(1.0))
        assert batch["spacing"] == [pytest.approx((1, 1, 1))]


def test_spacing_and_patches_of_an_epoch(task):
    data = Decathlon(task, split="all", spacing=(2, 2, 2), patch_size=(8, 8, 8), patches_per_volume=3)
    batch = read(data)[0]
    assert [round(side / 2) for side in batch["original_label"][0].shape] == list(batch["label"].shape[1:])
    assert batch["spacing"] == [(2, 2, 2)]
    ids = [case for batch in data.train_dataloader() for case in batch["id"]]
    assert sorted(ids) == sorted(3 * CASES)


def test_small_volumes_lie_in_the_middle_of_the_patch(task):
    data = Decathlon(task, split="all", patch_size=(64, 64, 64), batch_size=1, augmentation=[])
    whole = {batch["id"][0]: batch for batch in read(data)}
    for batch in data.train_dataloader():
        ((case,), label) = batch["id"], batch["label"][0]
        inside = (label >= 0).nonzero()
        first, last = inside.min(0).values, inside.max(0).values
        box = tuple(slice(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
        assert_close(label[box], whole[case]["label"][0])
        assert_close(batch["image"][0, 0][box], whole[case]["image"][0, 0])
        assert ((first - (63 - last)).abs() <= 1).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_forced_foreground(task, share):
    torch.manual_seed(0)
    # so small that most patches miss the hippocampus
    data = Decathlon(task, split="all", patch_size=(4, 4, 4), patches_per_volume=40, foreground=share, augmentation=[])
    labels = torch.cat([batch["label"] for batch in data.train_dataloader()])
    centred = labels[:, 2, 2, 2]
    if share:
        assert (centred > 0).float().mean() > 0.9  # all but those that the border of the volume moves
        assert 0.35 < (centred == 1).sum() / (centred > 0).sum() < 0.65  # either class as likely
    else:
        assert (centred > 0).float().mean() < 0.25


def test_patches_lie_anywhere(task):
    torch.manual_seed(0)
    data = Decathlon(task, split="all", patch_size=(8, 8, 8), foreground=0, augmentation=[])
    dataset = data.train_dataloader().dataset
    starts = torch.tensor([dataset._draw_start(0, dataset.case(0).label) for _ in range(500)])
    rooms = torch.tensor(dataset.case(0).label.shape) - 8
    assert starts.min(0).values.tolist() == [0, 0, 0]
    assert_close(starts.max(0).values, rooms)


# ---- the same again


def epoch(data: Decathlon) -> list[torch.Tensor]:
    return [tensor for batch in data.train_dataloader() for tensor in (batch["image"], batch["label"])]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_epoch(task, workers):
    def seeded(seed: int) -> list[torch.Tensor]:
        seed_everything(seed, verbose=False)
        return epoch(Decathlon(task, split="all", patch_size=PATCH, num_workers=workers))

    first = seeded(1)
    assert_close(first, seeded(1), rtol=0, atol=0)
    if workers == 0:
        assert (first[0] != seeded(2)[0]).any()


def test_volumes_are_read_once(task, monkeypatch):
    reads = []
    original = dataset_module.read_files
    monkeypatch.setattr(dataset_module, "read_files", lambda *a, **k: reads.append(a) or original(*a, **k))
    dataset = Decathlon(task, split="all", patch_size=PATCH).train_dataloader().dataset
    for _ in range(2):
        for index in range(6):
            dataset[index]
    assert len(reads) == 6
    reads.clear()
    size = dataset.case(0).nbytes
    dataset = Decathlon(task, split="all", cache_gigabytes=1.5 * size / 2**30).val_dataloader().dataset
    for _ in range(2):
        for index in range(6):
            dataset[index]
    assert len(reads) == 6 + 5


def test_the_cache_is_never_changed(task):
    def spoil(image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image.zero_(), label.zero_()

    dataset = Decathlon(task, split="all", patch_size=(4, 4, 4), augmentation=[spoil]).train_dataloader().dataset
    before = dataset.case(0).image.clone(), dataset.case(0).label.clone()
    for _ in range(5):
        assert dataset[0]["image"].abs().max() == 0
    assert_close((dataset.case(0).image, dataset.case(0).label), before)


# ---- splits


def test_the_two_sides_of_a_subject_stay_together(task):
    for fold in range(5):
        parts = Decathlon(task, fold=fold).split_ids
        assert sorted(case for ids in parts.values() for case in ids) == CASES
        assert any({"hippocampus_319", "hippocampus_320"} <= set(ids) for ids in parts.values())


def test_groups_of_the_whole_task(shared):
    data = Decathlon(shared / "data" / "Task04_Hippocampus")
    data.setup()
    parts = {case: part for part, ids in data.split_ids.items() for case in ids}
    assert {part: len(ids) for part, ids in data.split_ids.items()} == data.describe()["counts"]
    assert len(parts) == 208
    pairs = [(f"hippocampus_{2 * k - 1:03}", f"hippocampus_{2 * k:03}") for k in range(1, 200)]
    found = [(parts[one], parts[other]) for one, other in pairs if one in parts and other in parts]
    assert len(found) > 50
    assert all(one == other for one, other in found)


def test_groups_from_a_file(copy, tmp_path, refused):
    rows = ["image,group", *(f"{case}.nii.gz,{group}" for case, group in zip(CASES, "abcdea", strict=True))]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    data = Decathlon(copy, groups=tmp_path / "groups.csv")
    assert {sample.id: sample.group for sample in data.samples()} == dict(zip(CASES, "abcdea", strict=True))
    assert any({CASES[0], CASES[5]} <= set(ids) for ids in data.split_ids.values())
    (tmp_path / "groups.csv").write_text("\n".join([*rows, f"{CASES[0]},b"]))
    with refused(SegzooError):
        Decathlon(copy, groups=tmp_path / "groups.csv").samples()


# ---- layouts


def nnunet(root: Path, *, channels: int = 1) -> None:
    """Rename the images as nnU-Net does; a further channel is the negative of the first."""
    for path in sorted((root / "imagesTr").iterdir()):
        stem = path.name.removesuffix(".nii.gz")
        path.rename(path.with_name(f"{stem}_0000.nii.gz"))
        for channel in range(1, channels):
            shutil.copy(path.with_name(f"{stem}_0000.nii.gz"), path.with_name(f"{stem}_{channel:04}.nii.gz"))
            rewrite(path.with_name(f"{stem}_{channel:04}.nii.gz"), lambda voxels: -voxels.astype(np.float32))


def test_nnunet_v1(copy, task):
    nnunet(copy)  # its dataset.json lists the images without the channel
    assert_close([b["image"] for b in read(Decathlon(copy))], [b["image"] for b in read(Decathlon(task))])


def test_nnunet_v2(copy, task):
    nnunet(copy)
    labels = {"background": 0, "Posterior": 2, "Anterior": 1}
    description(copy, training=None, modality=None, labels=labels, channel_names={"0": "T1"}, file_ending=".nii.gz")
    data = Decathlon(copy)
    assert data.class_names == ("background", "Anterior", "Posterior")
    assert data.split_ids == Decathlon(task).split_ids
    assert_close([b["image"] for b in read(data)], [b["image"] for b in read(Decathlon(task))])


def test_nnunet_v2_with_a_list_of_files(copy):
    entry = {"images": ["imagesTr/hippocampus_148.nii.gz"], "label": "labelsTr/hippocampus_165.nii.gz"}
    description(copy, training=None, dataset={"one": entry})
    (sample,) = Decathlon(copy).samples()
    assert (sample.id, sample.image.name, sample.masks[0].name) == (
        "one",
        "hippocampus_148.nii.gz",
        "hippocampus_165.nii.gz",
    )


def test_a_file_for_each_channel(copy, refused):
    nnunet(copy, channels=2)
    description(copy, modality={"0": "T1", "1": "negative"})
    data = Decathlon(copy, patch_size=PATCH)
    image = read(data)[0]["image"]
    assert image.shape[1] == 2
    assert_close(image[:, 1], -image[:, 0])
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 2, *PATCH)
    rewrite(copy / "imagesTr" / "hippocampus_148_0001.nii.gz", same, Spacing=(1, 1, 2))
    with refused(SegzooError):
        read(Decathlon(copy, split="all"))


def test_channels_in_one_4d_file(copy, refused):
    for path in (copy / "imagesTr").iterdir():
        volume = sitk.ReadImage(str(path), sitk.sitkFloat32)
        sitk.WriteImage(sitk.JoinSeries([volume, -volume]), str(path))
    with refused(SegzooError):
        read(Decathlon(copy, split="all"))
    description(copy, modality={"0": "T1", "1": "negative"})
    image = read(Decathlon(copy))[0]["image"]
    assert image.shape[1] == 2
    assert_close(image[:, 1], -image[:, 0])


def test_nnunets_ignore_label(copy):
    description(copy, labels={"background": 0, "Anterior": 1, "ignore": 2})
    data = Decathlon(copy, split="all")
    assert data.class_names == ("background", "Anterior")
    for batch in read(data):
        assert batch["label"].unique().tolist() == batch["original_label"][0].unique().tolist() == [-1, 0, 1]


REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


@pytest.mark.parametrize(
    ("labels", "order", "names"),
    [
        (REGIONS, [1, 2], ("whole", "core")),
        ({"whole": [2, 1], "core": [2], "background": 0, "ignore": 3}, [1, 2], ("whole", "core")),
        ({"background": 0, "all": [1, 2, 3], "core": [2, 3]}, [1, 3], ("all", "core")),  # 2 and 3 are in the same ones
        ({"both": [2, 3], "b": 2, "a": 1, "background": 0}, [3, 2, 1], ("both", "b", "a")),
    ],
)
def test_regions(copy, labels, order, names):
    description(copy, labels=labels, regions_class_order=order)
    data = Decathlon(copy)
    assert (data.class_names, data.multilabel, data.region_values) == (names, True, tuple(order))
    assert data.label_values.ignored == labels.get("ignore")


def test_a_label_of_one_value_in_a_list_is_no_region(copy):
    description(copy, labels={"background": [0], "Anterior": [1], "Posterior": 2})
    data = Decathlon(copy)
    assert (data.class_names, data.multilabel) == (("background", "Anterior", "Posterior"), False)


def test_regions_are_weighed(copy):
    description(copy, labels=REGIONS, regions_class_order=[1, 2])
    weights = Decathlon(copy, split="all", class_weights="balanced").loss_weights()
    assert weights.shape == (2, 2)
    assert weights[1, 1] > weights[0, 1] > 1  # there is less of the core


# ---- intensities and what comes from the model


def test_each_channel_has_a_window_of_its_own(copy, refused):
    nnunet(copy, channels=2)
    description(copy, modality={"0": "CT", "1": "negative"})
    alone = Decathlon(copy, intensity=["window", "zscore"]).preprocessing
    both = Decathlon(copy, intensity="window").preprocessing
    (low, high), (negative_low, negative_high) = both.window
    assert (low, high) == (pytest.approx(-negative_high), pytest.approx(-negative_low))
    assert both.mean[0] == pytest.approx(-both.mean[1])
    assert (both.intensity, alone.intensity) == (("window", "window"), ("window", "zscore"))
    assert (alone.window, alone.mean, alone.std) == ((both.window[0], None), (both.mean[0], None), (both.std[0], None))
    given = Decathlon(copy, intensity=["window", "zscore"], window=[(0, 9), None], mean=[4, None], std=[2, None])
    own = given.preprocessing  # which a checkpoint keeps, unless something else is asked for
    assert own.window == ((0, 9), None)
    assert with_model(Decathlon(copy, intensity=["window", "zscore"]), own).preprocessing == own
    assert with_model(Decathlon(copy, intensity="window"), own).preprocessing == both
    assert with_model(Decathlon(copy, intensity="zscore"), own).preprocessing.intensity == "zscore"
    with refused(SegzooError):
        _ = Decathlon(copy, intensity=["window"]).preprocessing


def test_statistics_of_ct(task):
    data = Decathlon(task, intensity="window")
    voxels = []
    for case in data.split_ids["train"]:
        image, label = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(task / folder / f"{case}.nii.gz")))
            for folder in ("imagesTr", "labelsTr")
        )
        voxels.append(image[label > 0].astype(float))
    everything = np.concatenate(voxels)  # fewer a case than what is sampled at most
    contract = data.preprocessing
    assert contract.window == pytest.approx(np.percentile(everything, (0.5, 99.5)))
    assert (contract.mean, contract.std) == pytest.approx((everything.mean(), everything.std()), abs=1e-4)
    image = read(data)[0]["image"]
    assert image.min() >= (contract.window[0] - contract.mean) / contract.std - 1e-5
    asked = Decathlon(task, intensity="window", mean=3, std=2).preprocessing
    assert (asked.window, asked.mean, asked.std) == (contract.window, 3, 2)


def test_the_contract_follows_the_model_unless_asked(task):
    windowed = VolumePreprocessing(patch_size=(8, 8, 8), intensity="window", window=(0, 9), mean=4, std=2)
    assert with_model(Decathlon(task), windowed).preprocessing == windowed
    # a checkpoint's own statistics, never those of the data it is tested on
    assert with_model(Decathlon(task, intensity="window"), windowed).preprocessing == windowed
    asked = with_model(Decathlon(task, intensity="zscore", patch_size=PATCH), windowed).preprocessing
    assert asked == VolumePreprocessing(patch_size=PATCH)
    assert Decathlon(task).preprocessing == VolumePreprocessing()


def test_it_fits_no_other_model(task, refused):
    with refused(SegzooError):
        read(with_model(Decathlon(task), Preprocessing()))
    with refused(SegzooError):
        read(with_model(Decathlon(task), VolumePreprocessing(channels=2)))


def test_what_a_checkpoint_records(task):
    record = Decathlon(task, patch_size=PATCH, fold=1).describe()
    assert record["dataset"] == "Task04_Hippocampus"
    assert record["licence"] == "CC-BY-SA-4.0"
    assert (record["split"], record["fold"], record["patch_size"]) == ("grouped", 1, list(PATCH))
    assert record["channels"] == ["MRI"]
    assert record["longest_side"] == max(max(read_geometry(path).shape) for path in task.glob("imagesTr/*.nii.gz"))
    json.dumps(record)
    assert "files_sha256" not in record  # known by its name


def test_a_task_of_ones_own_is_known_by_its_files(copy):
    records = []
    for name in ("Dataset101_Mine", "Dataset102_Mine"):
        copy = copy.rename(copy.with_name(name))
        records.append(Decathlon(copy).describe())
    assert [record["folder"] for record in records] == ["Dataset101_Mine", "Dataset102_Mine"]
    assert records[0]["files_sha256"] == records[1]["files_sha256"]
    label_of(copy).write_bytes(label_of(copy).read_bytes() + b"x")
    assert Decathlon(copy).describe()["files_sha256"] != records[0]["files_sha256"]


# ---- bad input, in setup where headers tell it, else on reading


def label_of(root: Path) -> Path:
    return root / "labelsTr" / "hippocampus_165.nii.gz"


def test_a_label_on_another_grid(copy, refused):
    rewrite(label_of(copy), same, Origin=(5, 0, 0))
    with refused(SegzooError):
        Decathlon(copy).setup()
    rewrite(label_of(copy), lambda voxels: voxels[1:])
    with refused(SegzooError):
        Decathlon(copy).setup()


def test_a_form_is_chosen_where_headers_have_two(copy, refused):
    for path in copy.glob("*Tr/*.nii.gz"):
        raw = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<12f", raw, 280, *np.diag((2, 2, 4, 1))[:3].ravel())  # the sform's
        struct.pack_into("<2h", raw, 252, 1, 1)
        path.write_bytes(gzip.compress(raw, 1))
    with refused(SegzooError):
        Decathlon(copy, split="all").setup()
    with refused(SegzooError):
        Decathlon(copy, geometry="pixdim")
    for form, spacing in (("sform", (4.0, 2.0, 2.0)), ("qform", (1.0, 1.0, 1.0))):
        data = Decathlon(copy, split="all", geometry=form, patch_size=PATCH)
        data.setup()
        assert {item["geometry"].spacing for item in data.test_dataloader().dataset} == {spacing}
        assert next(iter(data.train_dataloader()))["image"].shape[2:] == PATCH


def test_values_that_are_no_class(copy, refused):
    rewrite(label_of(copy), lambda voxels: np.where(voxels == 2, 7, voxels))
    with refused(SegzooError):
        read(Decathlon(copy, split="all"))


def test_empty_foreground(copy, refused):
    rewrite(label_of(copy), np.zeros_like)
    with refused(SegzooError):
        read(Decathlon(copy, split="all"))
    data = Decathlon(copy, split="all", allow_empty=True, patch_size=PATCH, foreground=1.0)
    assert len(read(data)) == len(list(data.train_dataloader())) * 2 == 6


def test_not_a_number(copy, refused):
    def spoil(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.float32)
        voxels[3, 3, 3] = np.nan
        return voxels

    rewrite(copy / "imagesTr" / "hippocampus_165.nii.gz", spoil)
    with refused(SegzooError):
        read(Decathlon(copy, split="all"))


def test_a_truncated_file(copy, refused):
    path = copy / "imagesTr" / "hippocampus_165.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with refused(SegzooError):
        read(Decathlon(copy, split="all"))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"0": "background", "1": "a", "3": "b"}},
        {"labels": REGIONS},
        {"labels": {"0": "background"}},
        {"labels": {"background": 0, "ignore": 1, "a": 2}},
        {"labels": None},
        {"labels": {"background": 0, "a": "one"}},
        {"modality": {"T1": 0}},
        {"modality": ["MRI"]},
        {"training": [{"image": "imagesTr/hippocampus_148.nii.gz"}]},
        {"training": 2 * [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}]},
        {"training": [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/hippocampus_148.nii.gz"}]},
        {"labels": REGIONS, "regions_class_order": [1]},
        {"labels": REGIONS, "regions_class_order": [1, 0]},
        {"labels": REGIONS, "regions_class_order": [2, 1]},
        {"labels": REGIONS, "regions_class_order": [10, 20]},
        {"labels": {**REGIONS, "core": [2, "x"]}, "regions_class_order": [1, 2]},
        {"labels": {**REGIONS, "core": [0, 2]}, "regions_class_order": [1, 2]},
        {"labels": {**REGIONS, "core": 4}, "regions_class_order": [1, 4]},
        {"labels": {**REGIONS, "core": 3, "ignore": 2}, "regions_class_order": [1, 3]},
        {"labels": {"background": 0, "core": 2, "whole": [1, 2]}, "regions_class_order": [2, 1]},
        {"training": None, "file_ending": ".png"},
    ],
)
def test_bad_descriptions(copy, changes, refused):
    description(copy, **changes)
    with refused(SegzooError):
        _ = Decathlon(copy).setup() or Decathlon(copy).class_names


def test_missing_parts(copy, tmp_path, refused):
    with refused(MissingError):
        Decathlon(tmp_path / "none").setup()
    (copy / "dataset.json").write_text("{")
    with refused(SegzooError):
        Decathlon(copy).setup()
    (copy / "dataset.json").unlink()
    with refused(MissingError):
        Decathlon(copy).setup()


@pytest.mark.parametrize(
    "arguments",
    [{"foreground": 1.5}, {"patches_per_volume": 0}, {"cache_gigabytes": -1}, {"batch_size": 0}, {"split": "x"}],
)
def test_bad_arguments(task, arguments):
    with pytest.raises(SegzooError):
        Decathlon(task, **arguments)


def test_default_augmentation_is_the_published_one(task):
    (published,) = Decathlon(task).augmentation
    assert (published.rotation, published.scaling, published.mirror_axes) == (30, (0.7, 1.4), (0, 1, 2))
    own = VolumeAugmentation(mirror_axes=(2,))
    assert Decathlon(task, augmentation=own).augmentation == [own]


def test_no_mirroring_is_claimed_that_training_has_not_seen(task):
    mirroring = VolumeAugmentation(mirror_axes=(2,))
    for augmentation, axes in (
        (None, (0, 1, 2)),
        (mirroring, (2,)),
        ([], ()),
        ([lambda image, label: (image, label)], ()),
    ):
        assert Decathlon(task, augmentation=augmentation).preprocessing.mirror_axes == axes
