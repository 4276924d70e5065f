"""Post-processing: what belongs to a checkpoint, applied wherever it predicts, and steps by name or as a function."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import read_image
from segzoo.imaging.segmentation import Segmentation
from segzoo.postprocessing import Cleaning, Postprocessing
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.postprocess import POSTPROCESSING, Finishing
from segzoo.prediction.torch_backend import TorchBackend, predict_probabilities
from segzoo.tasks import Task


@pytest.fixture(scope="module")
def image(samples: Path) -> Path:
    return next((samples / "BUSI").rglob("benign (9).png"))


@pytest.fixture(scope="module")
def backend(image: Path) -> TorchBackend:
    """A random network to which every class is as likely on this image."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s", num_classes=3).eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    with torch.no_grad():
        std, mean = torch.std_mean(model(model.preprocessing(read_image(image))[None]), (0, 2, 3))
        model.head.weight.div_(std[:, None, None, None])
        model.head.bias.sub_(mean).div_(std)
    model.class_names = ("background", "tumour", "cyst")
    return TorchBackend(model)


def no_cysts(found: Segmentation) -> np.ndarray:
    return np.where(found.mask == found.class_names.index("cyst"), 0, found.mask).astype(found.mask.dtype)


def all_cysts(found: Segmentation) -> np.ndarray:
    """A cyst where any class but the background is."""
    return np.where(found.mask > 0, found.class_names.index("cyst"), 0).astype(found.mask.dtype)


def test_steps_change_the_mask_alone_and_in_their_order(backend, image):
    plain = Pipeline(backend)(image)
    assert {*np.unique(plain.mask)} == {0, 1, 2}
    expected = all_cysts(replace(plain, mask=no_cysts(plain)))
    found = Pipeline(backend, postprocessing=[no_cysts, all_cysts])(image)
    assert {*np.unique(expected)} == {0, 2}  # and none where the steps take turns
    np.testing.assert_array_equal(found.mask, expected)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)


def test_a_step_is_found_by_its_name(backend, image, monkeypatch, refused):
    monkeypatch.setattr(POSTPROCESSING, "added", {})
    with refused(MissingError):
        Pipeline(backend, postprocessing=["no-cysts"])
    POSTPROCESSING.add("no-cysts", no_cysts)
    assert 2 not in Pipeline(backend, postprocessing=["no-cysts"])(image).mask


@pytest.mark.parametrize("spoil", [lambda found: found.mask[1:], lambda found: found.mask.astype(np.float32)])
def test_a_step_must_keep_shape_and_type(backend, image, spoil, refused):
    with refused(SegzooError):
        Pipeline(backend, postprocessing=[spoil])(image)


# ---- what belongs to a checkpoint: thresholds


def finishing(dims: int = 2, names: tuple[str, ...] = ("background", "one"), multilabel: bool = False, **classes):
    return Finishing(Postprocessing(classes), Task.of_classes(names, multilabel), names, dims)


def test_a_threshold_is_the_probability_above_which_a_class_is_there():
    p = np.array([[[[0.2, 0.39, 0.41, 0.6]]]], np.float32)
    assert finishing().mask(p).tolist() == [[[False, False, False, True]]]
    assert finishing(one=Cleaning(threshold=0.4)).mask(p).tolist() == [[[False, False, True, True]]]
    two = finishing(names=("one", "two"), multilabel=True, two=Cleaning(threshold=0.3)).mask(p.repeat(2, axis=1))
    assert two.astype(int).tolist() == [[[[0, 0, 0, 1]], [[0, 1, 1, 1]]]]


def test_of_classes_that_exclude_each_other_a_threshold_weighs_one_against_the_others():
    p = np.array([[0.45, 0.35, 0.2], [0.55, 0.25, 0.2], [0.1, 0.45, 0.45]], np.float32).T[None, :, None]
    names = ("background", "one", "two")
    assert finishing(names=names).mask(p).tolist() == [[[0, 0, 1]]]
    assert finishing(names=names, one=Cleaning(threshold=0.4)).mask(p).tolist() == [[[1, 0, 1]]]
    assert finishing(names=names, two=Cleaning(threshold=0.4)).mask(p).tolist() == [[[0, 0, 2]]]
    alone = np.linspace(0, 1, 101, dtype=np.float32)[None, None, None]  # of two it is the plain threshold
    both = Task(2).mask(np.concatenate([1 - alone, alone], axis=1), np.array([0.5, 0.3], np.float32))
    np.testing.assert_array_equal(both, Task(1).mask(alone, np.array([0.3], np.float32)))


# ---- cleaning


def drawn(*rows: str) -> np.ndarray:
    return np.array([[int(value) for value in row.replace(".", "0")] for row in rows], np.uint8)


RING = drawn("111..2", "1.1...", "111.1.", ".....1", "22....")


@pytest.mark.parametrize(
    ("cleaning", "expected"),
    [
        (Cleaning(filled_holes=True), ("111..2", "111...", "111.1.", ".....1", "22....")),
        (Cleaning(smallest_part=2), ("111..2", "1.1...", "111.1.", ".....1", "22....")),  # corners touch: one of two
        (Cleaning(smallest_part=3), ("111..2", "1.1...", "111...", "......", "22....")),
        (Cleaning(smallest_part=9), (".....2", "......", "......", "......", "22....")),
        (Cleaning(smallest_part=9, filled_holes=True), ("111..2", "111...", "111...", "......", "22....")),
        (Cleaning(largest_component=True), ("111..2", "1.1...", "111...", "......", "22....")),
    ],
    ids=str,
)
def test_each_step_does_to_its_class_what_it_says(cleaning, expected):
    way = finishing(names=("background", "one", "two"), one=cleaning)
    np.testing.assert_array_equal(way.clean(RING), drawn(*expected))
    np.testing.assert_array_equal(RING, drawn("111..2", "1.1...", "111.1.", ".....1", "22...."))  # as it was
    both = finishing(names=("one", "two"), multilabel=True, one=cleaning).clean(np.stack([RING == 1, RING == 2]) * 1)
    np.testing.assert_array_equal(both, np.stack([drawn(*expected) == 1, RING == 2]))


def test_another_class_inside_is_no_hole():
    liver = drawn("11111", "12.11", "11111")
    way = finishing(names=("background", "one", "two"), one=Cleaning(filled_holes=True))
    np.testing.assert_array_equal(way.clean(liver), drawn("11111", "12111", "11111"))


def test_a_network_for_images_cleans_a_volume_slice_by_slice():
    volume = np.stack([drawn("11.1"), drawn("...1"), drawn("...1")])
    largest = Cleaning(largest_component=True)
    np.testing.assert_array_equal(finishing(one=largest).clean(volume), np.stack([drawn("11.."), volume[1], volume[2]]))
    np.testing.assert_array_equal(
        finishing(dims=3, one=largest).clean(volume), np.stack([drawn("...1"), volume[1], volume[2]])
    )


def test_sizes_in_millimetres_are_those_of_the_input(refused):
    volume = np.stack([drawn("11.1"), drawn("11..")])
    kept, gone = volume.copy(), np.stack([drawn("11.."), drawn("11..")])
    grid = Geometry.along_axes((2, 1, 4), spacing=(2.0, 0.5, 3.0))  # 3 mm3 a voxel, 1.5 mm2 a pixel of a slice
    for dims, unit, size, expected in [
        (3, "mm3", 3, kept),
        (3, "mm3", 3.1, gone),
        (2, "mm2", 1.5, kept),
        (2, "mm2", 1.6, gone),
        (3, "pixels", 1, kept),
    ]:
        way = finishing(dims=dims, one=Cleaning(smallest_part=size, unit=unit))
        np.testing.assert_array_equal(way.clean(volume, grid), expected)
    with refused(SegzooError):
        finishing(one=Cleaning(smallest_part=1, unit="mm2")).clean(volume[0])


# ---- wherever it predicts


CLEANED = Postprocessing({"tumour": Cleaning(threshold=0.4, filled_holes=True), "cyst": Cleaning(smallest_part=800)})


@pytest.fixture(scope="module")
def tuned(backend, tmp_path_factory) -> Path:
    """A checkpoint of that network, with post-processing."""
    backend.network.postprocessing = CLEANED
    folder = backend.network.save_pretrained(tmp_path_factory.mktemp("tuned") / "tuned")
    backend.network.postprocessing = Postprocessing()
    return folder


@pytest.fixture(scope="module")
def expected(backend, image) -> np.ndarray:
    """Its mask, step by step."""
    plain = Pipeline(backend)(image)
    way = Finishing(CLEANED, Task(3), plain.class_names, 2)
    found = way.clean(way.mask(plain.probabilities[None])[0].astype(np.uint8))
    assert 100 < (found != plain.mask).sum() < found.size / 2
    return found


def differing(one: np.ndarray, other: np.ndarray) -> int:
    """Pixels in which two masks differ: a few where a network is fused, or lies otherwise in memory."""
    assert one.shape == other.shape
    return int((one != other).sum())


def test_a_checkpoint_keeps_it_in_its_config_and_one_without_says_nothing(backend, tuned, tmp_path):
    assert read_config(tuned).postprocessing == CLEANED
    assert json.loads((tuned / "config.json").read_text())["format"] == 3  # which an older segzoo refuses to misuse
    plain = json.loads((backend.network.save_pretrained(tmp_path / "plain") / "config.json").read_text())
    assert plain["format"] == 1
    assert "postprocessing" not in plain
    assert "Post-processing" in (tuned / "README.md").read_text()
    assert "Post-processing" not in (tmp_path / "plain" / "README.md").read_text()


def test_it_is_applied_by_all_that_predict_and_raw_leaves_it_out(backend, tuned, image, expected):
    model = segzoo.from_pretrained(tuned)
    assert differing(model.predict(image).mask, expected) < 10
    predictor = segzoo.Predictor(tuned, device="cpu")
    assert differing(predictor(image).mask, expected) < 10
    assert str(CLEANED) in predictor.description
    raw = Pipeline(backend)(image)
    assert differing(Pipeline(TorchBackend(model), raw=True)(image).mask, raw.mask) < 10
    model.postprocessing = Postprocessing()
    assert differing(model.predict(image).mask, raw.mask) < 10


def test_a_trainer_tests_and_predicts_by_the_mask_that_is_cleaned(tuned, image, expected, tmp_path):
    model = segzoo.from_pretrained(tuned)
    given = model.preprocessing(read_image(image))[None]
    own = torch.from_numpy(expected.astype(np.int64))
    batch = {"image": given, "label": torch.zeros(1, 32, 32, dtype=torch.long), "original_label": [own], "id": ["a"]}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    loader = DataLoader([batch], batch_size=None)
    ((found,),) = trainer.predict(model, dataloaders=loader)
    assert differing(found.mask, expected) < 10
    (scores,) = trainer.test(model, dataloaders=loader, verbose=False)
    assert scores["test/dice"] > 0.999
    small = Task(3).mask(predict_probabilities(model, given).numpy(), np.array([0.5, 0.4, 0.5], np.float32))[0]
    scale = expected.size / small.size  # its pixels are larger, and so is the smallest part in them
    way = Finishing(CLEANED, Task(3), model.class_names, 2)
    batch["label"] = torch.from_numpy(way.clean(small, scale=scale))[None]
    (scores,) = trainer.test(model, dataloaders=loader, verbose=False)
    assert scores["test_resized/dice"] == 1
    assert not np.array_equal(way.clean(small, scale=scale), way.clean(small))


def test_other_classes_a_training_and_an_ensemble_leave_it_behind(tuned, tmp_path):
    assert not segzoo.from_pretrained(tuned, num_classes=2).postprocessing
    described = segzoo.Predictor([tuned, tuned], device="cpu").description
    assert "left out" in described
    assert str(CLEANED) not in described
    mean = segzoo.Ensemble([segzoo.from_pretrained(tuned) for _ in range(2)])
    assert not mean.postprocessing
    mean.postprocessing = CLEANED
    mean.save_pretrained(tmp_path / "mean")
    loaded = segzoo.from_pretrained(tmp_path / "mean")
    assert loaded.postprocessing == CLEANED
    assert not any(member.postprocessing for member in loaded.members)
    model = segzoo.from_pretrained(tuned)
    item = {"image": torch.zeros(3, 32, 32), "label": torch.zeros(32, 32, dtype=torch.long)}
    trainer = Trainer(accelerator="cpu", logger=False, fast_dev_run=True, enable_progress_bar=False)
    trainer.fit(model, DataLoader([item, item], batch_size=2))
    assert not model.postprocessing


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"classes": []},
        {"classes": {"lung": {}}},
        {"classes": {"background": {"threshold": 0.4}}},
        {"classes": {"cyst": {"threshold": 0.4, "closing": 3}}},
        {"classes": {"cyst": {"threshold": 1.0}}},
        {"classes": {"cyst": {"threshold": "0.4"}}},
        {"classes": {"cyst": {"smallest_part": -1}}},
        {"classes": {"cyst": {"smallest_part": 1e30}}},
        {"classes": {"cyst": {"smallest_part": 3, "unit": "mm3"}}},
        {"classes": {"cyst": {"smallest_part": 3, "unit": ["mm2"]}}},
        {"classes": {"cyst": {"filled_holes": 1}}},
        {"classes": {}, "later": 1},
        {"classes": {}, "tuned": {"before": {"dice": "high"}}},
        {"classes": {}, "tuned": {"data": {"dataset": 1}}},
    ],
    ids=str,
)
def test_what_is_no_post_processing_is_refused(tuned, tmp_path, stored):
    entries = json.loads((tuned / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**entries, "postprocessing": stored}))
    with pytest.raises(SegzooError, match=r"config\.json"):
        read_config(tmp_path)
