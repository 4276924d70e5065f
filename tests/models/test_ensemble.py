"""Several networks as one: the mean of probabilities, and the checkpoint that holds them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import segzoo
from segzoo.checkpoints.weights import sha256
from segzoo.errors import SegzooError
from segzoo.hub.listing import list_checkpoints
from segzoo.hub.verify import verify
from segzoo.models._ensemble import mean_logits
from segzoo.preprocessing.image import Preprocessing
from segzoo.registry import _ADDED


class Point(segzoo.SegmentationModule):
    """One layer, whose masks depend on every pixel."""

    def __init__(self, in_channels=3, num_classes=1, multilabel=False, stride=4, spatial_dims=2, **recipe):
        super().__init__(in_channels, num_classes, multilabel, **recipe)
        self.layer = (nn.Conv3d if spatial_dims == 3 else nn.Conv2d)(in_channels, num_classes, 3, padding=1)
        self.spatial_dims, self.stride = spatial_dims, stride
        if spatial_dims == 3:
            self.preprocessing = segzoo.VolumePreprocessing(in_channels, patch_size=(8, 8, 8))

    def compute_logits(self, x):
        return self.layer(x)

    def default_optimizer(self, parameters):
        return torch.optim.SGD(parameters, 0.1)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    @segzoo.register(parameters=28, paper="none")
    def point(**arguments) -> Point:
        "One layer."
        return Point(**arguments)

    yield
    _ADDED.added.pop("point")


def points(count=3, **arguments):
    torch.manual_seed(0)
    made = [segzoo.create_model("point", **arguments).eval() for _ in range(count)]
    for fold, model in enumerate(made):
        model.data = {"dataset": "BUSI", "split": "grouped", "licence": "CC0-1.0", "fold": fold}
        for parameter in model.parameters():
            parameter.data *= 9  # sure of itself, so that the order of mean and sigmoid matters
    return made


@pytest.fixture
def folder(tmp_path):
    return segzoo.Ensemble(points()).save_pretrained(tmp_path / "mine")


@pytest.mark.parametrize("task", [{}, {"num_classes": 3}, {"num_classes": 2, "multilabel": True}])
def test_probabilities_are_averaged(task):
    members, x = points(**task), torch.randn(2, 3, 21, 34)
    model = segzoo.Ensemble(members)
    with torch.no_grad():
        mean = torch.stack([member.activate(member(x)) for member in members]).mean(0)
        assert_close(model.activate(model(x)), mean)
        assert not torch.allclose(model.activate(torch.stack([member(x) for member in members]).mean(0)), mean)
    raw = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    expected = np.mean([member.predict(raw).probabilities for member in members], axis=0)
    np.testing.assert_allclose(model.predict(raw).probabilities, expected, atol=1e-6)


def test_no_probability_is_rounded_to_0_or_1():
    sure = [torch.full((1, 1, 1, 1), logit) for logit in (120.0, 100.0)]
    assert_close(mean_logits(sure, independent=True).item(), 100 + np.log(2))
    assert_close(mean_logits([-one for one in sure], independent=True).item(), -100 - np.log(2))
    one_of_two = torch.tensor([[0.0, 200.0]])[..., None, None]
    assert_close(mean_logits([one_of_two, one_of_two], independent=False).flatten(), torch.tensor([-200.0, 0.0]))


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_saved_and_loaded_as_it_is(tmp_path, dtype, dims):
    arguments = {"spatial_dims": 3, "in_channels": 1, "num_classes": 3} if dims == 3 else {}
    model = segzoo.Ensemble(points(**arguments))
    folder = model.save_pretrained(tmp_path / "mine", dtype=dtype)
    assert "3 files" not in verify(folder)
    assert verify(folder).endswith("its logits are equal")
    config = json.loads((folder / "config.json").read_text())
    assert set(config["sha256"]) == {*(f"member-{number}.safetensors" for number in (1, 2, 3)), "probe.safetensors"}
    assert config["data"] == {"dataset": "BUSI", "split": "grouped", "licence": "CC0-1.0"}
    assert [member["data"] for member in config["members"]] == [{"fold": fold} for fold in range(3)]
    assert config["parameters"] == 3 * sum(one.numel() for one in points(1, **arguments)[0].parameters())
    loaded = segzoo.from_pretrained(folder)
    assert (type(loaded), loaded.model_name, loaded.training) == (segzoo.Ensemble, "point", False)
    assert [member.data for member in loaded.members] == [member.data for member in model.members]
    assert len(loaded.load_report.loaded) == len(loaded.state_dict()) == 6
    if dtype is None:
        assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    one = loaded.members[1].save_pretrained(tmp_path / "one")  # to train on
    assert_close(dict(segzoo.from_pretrained(one).state_dict()), dict(loaded.members[1].state_dict()), rtol=0, atol=0)


def test_its_card_tells_what_it_is(folder):
    card = (folder / "README.md").read_text()
    assert "ensemble of 3 networks" in card
    assert [f"fold {fold}" in card for fold in range(4)] == [True, True, True, False]


def test_it_is_found_by_its_name(folder, monkeypatch):
    monkeypatch.setenv("SEGZOO_HUB", str(folder.parent))
    assert "mine" in list_checkpoints()
    assert len(segzoo.from_pretrained("mine").members) == 3


def test_each_members_file_is_checked(folder, refused):
    file = folder / "member-2.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with refused(SegzooError):
        segzoo.from_pretrained(folder)
    file.unlink()
    with refused(SegzooError):
        segzoo.from_pretrained(folder)


def test_the_probe_is_of_the_mean(folder, refused):
    state = load_file(folder / "member-1.safetensors")
    save_file({name: value * 1.01 for name, value in state.items()}, folder / "member-1.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["sha256"]["member-1.safetensors"] = sha256(folder / "member-1.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with refused(SegzooError):
        verify(folder)


@pytest.mark.parametrize(
    "members",
    [
        "two",
        [],
        [1, 2],
        [{"weights": "member-1.safetensors"}],
        [{"weights": "member-1.safetensors"}, {"weights": "member-1.safetensors"}],
        [{"weights": "member-1.safetensors"}, {"weights": "../other.safetensors"}],
        [{"weights": "member-1.safetensors"}, {"weights": "config.json"}],
        [{"weights": "member-1.safetensors"}, {"weights": "member-2.safetensors", "data": [1]}],
        [{"weights": "member-1.safetensors"}, {"weights": "member-2.safetensors", "data": {"fold": "first"}}],
    ],
)
def test_strange_members_are_refused(folder, refused, members):
    config = json.loads((folder / "config.json").read_text()) | {"members": members}
    (folder / "config.json").write_text(json.dumps(config))
    with refused(SegzooError):
        segzoo.from_pretrained(folder)


def test_an_older_segzoo_does_not_take_it_for_one_network(folder):
    assert json.loads((folder / "config.json").read_text())["format"] == 2


@pytest.mark.parametrize("change", ["one", "classes", "names", "size"])
def test_members_agree(refused, change):
    first, second = points(2)
    if change == "classes":
        second = points(1, num_classes=3)[0]
    if change == "names":
        second.class_names = ("background", "polyp")
    if change == "size":
        second.preprocessing = Preprocessing(image_size=(32, 32))
    with refused(SegzooError):
        segzoo.Ensemble([first] if change == "one" else [first, second])


def test_it_is_not_trained(folder, refused):
    model = segzoo.from_pretrained(folder)
    assert not model.train().members[0].training
    with refused(SegzooError):
        model.setup("fit")
    for changed in ({"num_classes": 3}, {"in_channels": 1}, {"loss": nn.MSELoss()}):
        with refused(SegzooError):
            segzoo.from_pretrained(folder, **changed)
    with refused(SegzooError):
        Point.from_pretrained(folder)


def test_members_of_several_kinds_predict_and_are_not_saved(tmp_path, refused):
    model = segzoo.Ensemble([*points(1), *points(1, stride=16)])
    x = torch.randn(1, 3, 20, 21)
    with torch.no_grad():
        mean = torch.stack([member.activate(member(x)) for member in model.members]).mean(0)  # each on its own padding
        assert_close(model.activate(model(x)), mean)
    with refused(SegzooError):
        model.save_pretrained(tmp_path / "mine")
    with refused(SegzooError):
        model.export(tmp_path / "mine.onnx")


def test_its_deployed_form_sees_changed_members(folder):
    model, raw = segzoo.from_pretrained(folder), np.full((20, 20, 3), 128, np.uint8)
    before = model.predict(raw).probabilities
    with torch.no_grad():
        model.members[1].layer.bias += 5
    assert not np.array_equal(model.predict(raw).probabilities, before)


@pytest.mark.parametrize("task", [{}, {"num_classes": 3}])
def test_its_export_is_one_graph(tmp_path, task):
    model = segzoo.Ensemble(points(**task))
    program = torch.export.load(model.export(tmp_path / "mine.pt2").path).module()
    raw = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    found, _ = program(torch.from_numpy(raw).movedim(-1, 0)[None].float())
    np.testing.assert_allclose(found[0].numpy(), model.predict(raw).probabilities, atol=1e-4)
