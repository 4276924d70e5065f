"""benchmarks/distil_encoder.py: its crops, the teacher's stored words, and a training that is interrupted."""

from pathlib import Path

import distil_encoder as script
import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.nn.wkv import bi_wkv

INDICES = torch.arange(4)


@pytest.fixture
def crops(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a/one.png", "a/two.png", "b/three.jpg", "four.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (140, 160, 3), np.uint8)).save(tmp_path / name)
    return script.Crops(script.read_images(script.images_below(tmp_path)), seed=1, area=(0.3, 1.0), jitter=0.3)


@pytest.fixture
def teacher():
    """A teacher of 1,000 classes that counts the crops it is asked about."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3 * 4 * 4, 1000)

    @torch.no_grad()
    def words(images):
        words.asked += len(images)
        return 20 * layer(torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))

    words.asked = 0
    return words


@pytest.fixture
def recipe():
    recipe = script.yaml.safe_load(Path(script.__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    small = {"stages": [[32, 2], [48, 1]], "batch_size": 2, "rounds": 2, "warmup_epochs": 1}
    return recipe | small | {"compile": False, "precision": "32-true"}


def test_a_crop_follows_from_seed_and_round(crops):
    seen = crops(3, INDICES, 64)
    assert seen.shape == (4, 3, 64, 64)
    again = script.Crops(crops.images, 1, (0.3, 1.0), 0.3)
    again(0, INDICES, 64)
    torch.testing.assert_close(again(3, INDICES[1:3], 64), seen[1:3])  # alone and after another round
    for other in (crops(4, INDICES, 64), script.Crops(crops.images, 2, (0.3, 1.0), 0.3)(3, INDICES, 64)):
        assert (other - seen).abs().mean() > 0.05


def test_a_whole_crop_without_jitter_is_the_image(crops):
    whole = script.Crops(crops.images, 1, (1.0, 1.0), 0.0)
    maps, _ = whole.drawn(0)
    # the full area, as far as its proportions let it
    assert maps[:, [0, 1], [0, 1]].amax(1).tolist() == [1, 1, 1, 1]
    whole.drawn = lambda number: (torch.eye(2, 3).expand(4, 2, 3), torch.ones(4, 3))
    torch.testing.assert_close(whole(0, INDICES, script.SIDE), crops.images / 255, atol=1e-5, rtol=0)


def test_stored_words_give_the_teachers_loss(crops, teacher, tmp_path):
    labels = script.SoftLabels(crops, teacher, 48, tmp_path / "labels")
    labels(0, INDICES[:2])
    labels(0, INDICES)
    assert teacher.asked == 4  # each crop once
    read = script.SoftLabels(crops, None, 48, tmp_path / "labels")(0, INDICES)  # by the next process
    said = teacher(crops(0, INDICES, 48))
    student = torch.randn(4, 1000, generator=torch.manual_seed(0))
    expected = script.distance(student, said, 1.0)
    torch.testing.assert_close(script.distance(student, read, 1.0), expected, rtol=1e-3, atol=0)
    probabilities = said.softmax(1)
    divergence = (probabilities * (probabilities.log() - student.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(expected, divergence, rtol=1e-4, atol=0)
    labels(1, INDICES)
    assert teacher.asked == 12  # another round has crops of its own


def test_the_matrix_product_is_bi_wkv():
    torch.manual_seed(0)
    inputs = [torch.randn(6) / 10, torch.randn(6), torch.randn(2, 9, 6), torch.randn(2, 9, 6)]
    ours, exact = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    one, other = script.small_bi_wkv(*ours), bi_wkv(*exact)
    torch.testing.assert_close(one, other)
    weight = torch.randn_like(one)
    (one * weight).sum().backward()
    (other * weight).sum().backward()
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_training_goes_on_and_its_encoder_loads(crops, teacher, recipe, tmp_path, monkeypatch):
    sides, run = [], tmp_path / "run"
    labels = script.SoftLabels(crops, teacher, 48, tmp_path / "labels")
    side = script.Distillation.side

    def interrupted(module):
        if len(sides) == 3:  # in the second epoch
            raise KeyboardInterrupt
        sides.append((module.current_epoch, side(module)))
        return sides[-1][1]

    monkeypatch.setattr(script.Distillation, "side", interrupted)
    with pytest.raises(SystemExit):
        script.train(recipe, run, crops, labels)
    monkeypatch.setattr(
        script.Distillation, "side", lambda module: sides.append((module.current_epoch, side(module))) or sides[-1][1]
    )
    script.train(recipe, run, crops, labels)
    assert sides == [(0, 32), (0, 32), (1, 32), (1, 32), (1, 32), (2, 48), (2, 48)]

    student = script.trained(recipe, run)
    script.export(student, tmp_path / "encoder.safetensors")
    model = segzoo.create_model("med_urwkv", encoder="plain", encoder_weights=str(tmp_path / "encoder.safetensors"))
    assert not model.load_report.initialised
    assert not model.load_report.ignored
    expected = {name: value.half().float() for name, value in student.encoder.state_dict().items()}
    torch.testing.assert_close(dict(model.encoder.state_dict()), expected, rtol=0, atol=0)


def test_the_nearest_neighbour_is_of_the_greatest_cosine():
    queries, references = torch.tensor([[1.0, 0.1], [0.5, 2.0]]), torch.tensor([[9.0, 0.0], [0.0, 0.1], [1.0, 1.0]])
    assert script.nearest_neighbour(queries, references, torch.tensor([0, 1]), torch.tensor([0, 1, 1])) == 1.0
    assert script.nearest_neighbour(queries, references, torch.tensor([1, 1]), torch.tensor([0, 1, 1])) == 0.5
