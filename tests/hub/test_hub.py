import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import processes
import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.entries import Licences
from segzoo.checkpoints.save import record
from segzoo.checkpoints.weights import sha256
from segzoo.hub.find import open_checkpoint, pull


@pytest.fixture
def model():
    torch.manual_seed(0)
    return segzoo.create_model("cmunext_s").eval()


@pytest.fixture
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "cmunext-s-test")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_checkpoint_is_four_files_that_say_what_they_are(model, folder, tmp_path):
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config["name"] == "cmunext-s-test"
    assert config["model"] == {
        "name": "cmunext_s",
        "arguments": {"in_channels": 3, "num_classes": 1, "multilabel": False},
    }
    assert config["parameters"] == 417_505
    assert config["class_names"] == ["background", "class 1"]
    assert config["sha256"] == {"model.safetensors": sha256(folder / "model.safetensors")}
    (tmp_path / "run.yaml").write_text("seed_everything: 1\n")
    model.save_pretrained(folder, train_config=tmp_path / "run.yaml")
    assert (folder / "train.yaml").read_text() == "seed_everything: 1\n"
    assert "train.yaml" in json.loads((folder / "config.json").read_text())["sha256"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("encoder_weights: private/imagenet.safetensors", {"encoder_weights": "imagenet.safetensors"}),
        ("upkern_from: runs/small/checkpoint", {"upkern_from": "small"}),
        ("name_or_path: somebody/theirs", {"name_or_path": "theirs"}),
        ("encoder_weights: null", None),
    ],
)
def test_a_checkpoint_names_the_weights_that_its_training_started_from(model, folder, tmp_path, options, named):
    (tmp_path / "run.yaml").write_text(f"model: {{class_path: any, init_args: {{{options}}}}}\n")
    model.save_pretrained(folder, train_config=tmp_path / "run.yaml")
    assert json.loads((folder / "config.json").read_text()).get("started_from") == named


def test_a_checkpoint_keeps_the_licence_of_the_weights_that_it_started_from(model, samples, tmp_path):
    folder = model.save_pretrained(tmp_path / "first", licence="CC-BY-NC-4.0")
    loaded = segzoo.from_pretrained(folder)
    assert read_config(loaded.save_pretrained(tmp_path / "again")).licences.weights == "CC-BY-NC-4.0"
    loaded.adopt_data(segzoo.data.BUSI(samples, split="all"))
    tuned = read_config(loaded.save_pretrained(tmp_path / "tuned"))
    assert tuned.licences == Licences(code="Apache-2.0", data="CC0-1.0", weights="CC-BY-NC-4.0 + CC0-1.0")
    assert read_config(loaded.save_pretrained(tmp_path / "own", licence="MIT")).licences.weights == "MIT"


def test_loading_restores_preprocessing_classes_and_eval_mode(model, tmp_path):
    model.preprocessing = segzoo.Preprocessing(image_size=(96, 64), mean=(0.1, 0.2, 0.3))
    model.class_names = ("background", "lesion")
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert not loaded.training
    assert loaded.preprocessing == model.preprocessing
    assert loaded.class_names == ("background", "lesion")
    assert len(loaded.load_report.loaded) == len(model.state_dict())


def test_the_same_prediction_in_a_fresh_process(model, folder, samples, tmp_path):
    image = next((samples / "BUSI").rglob("*[0-9]).png"))
    code = (
        "import sys, numpy, segzoo\n"
        "result = segzoo.from_pretrained(sys.argv[1]).predict(sys.argv[2])\n"
        "numpy.save(sys.argv[3], result.probabilities)"
    )
    done = processes.run([sys.executable, "-c", code, folder, image, tmp_path / "out.npy"])
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.predict(image).probabilities, atol=1e-6)


def test_float16_rounds_kernels_and_keeps_norms(model, tmp_path, refused):
    folder = model.save_pretrained(tmp_path / "half", dtype="float16")
    stored = load_file(folder / "model.safetensors")
    assert stored["head.weight"].dtype == torch.float16
    assert stored["stem.1.running_var"].dtype == torch.float32
    loaded = segzoo.from_pretrained(folder)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(loaded.head.weight, model.head.weight, rtol=1e-3, atol=1e-4)
    with refused(segzoo.SegzooError):
        model.save_pretrained(tmp_path / "int8", dtype="int8")


def test_another_head_and_stem_are_said(model, folder, caplog):
    loaded = segzoo.from_pretrained(folder, num_classes=4, in_channels=1)
    report = loaded.load_report
    assert report.initialised == ["head.weight", "head.bias"]
    assert report.adapted == ["stem.0.weight"]
    assert len(report.loaded) == len(model.state_dict()) - 3
    assert "head.weight, head.bias newly initialised" in caplog.text
    torch.testing.assert_close(loaded.stem[0].weight, model.stem[0].weight.sum(1, keepdim=True))
    assert loaded.preprocessing.channels == 1
    assert loaded.class_names == ("background", "class 1", "class 2", "class 3")
    assert loaded.arguments["num_classes"] == 4


def test_a_load_is_told_in_one_line(model, folder, caplog):
    caplog.set_level("INFO", "segzoo")
    segzoo.from_pretrained(folder)
    (line,) = caplog.messages
    assert line.startswith(f"{len(model.state_dict())} tensors loaded from {folder}; its files agree with its own")


def test_names_are_found_in_segzoo_hub(folder, monkeypatch, refused):
    monkeypatch.setenv("SEGZOO_HUB", str(folder.parent))
    assert "cmunext-s-test" in segzoo.list_checkpoints()
    assert segzoo.from_pretrained("cmunext-s-test").model_name == "cmunext_s"
    with refused(segzoo.MissingError):
        segzoo.from_pretrained("cmunext-s-tset")


def test_the_zoos_own_may_be_called_by_their_full_names(monkeypatch, tmp_path, refused):
    name, full = "lv-unet-busi", "segzoo/lv-unet-busi"
    for revision in (None, "v1.0"):
        found = open_checkpoint(full, revision=revision, local_files_only=True)
        assert found == open_checkpoint(name, revision=revision)
        assert found.trust.startswith("as published (lv-unet-busi v1.0")
    assert pull(full, tmp_path) == tmp_path / name
    monkeypatch.setenv("SEGZOO_HUB", str(tmp_path))
    assert open_checkpoint(full).folder == tmp_path / name
    (tmp_path / "segzoo").mkdir()
    (tmp_path / name).rename(tmp_path / full)  # a mirror that is laid out as the Hub
    edit_config(tmp_path / full, class_names=["lesion", "background"])
    with refused(segzoo.SegzooError):
        open_checkpoint(full)
    monkeypatch.setenv("SEGZOO_ORGANISATION", "another")  # whose segzoo/... are a stranger's
    assert "nothing else vouches for" in open_checkpoint(full).trust


def test_a_checkpoint_is_pulled_from_the_folder_that_one_is_in(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert pull(".", tmp_path / "mirror") == tmp_path / "mirror" / "cmunext-s-test"
    assert open_checkpoint(tmp_path / "mirror" / "cmunext-s-test")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("head.weight", torch.int8),
        ("head.bias", torch.bool),
        ("stem.1.num_batches_tracked", torch.float16),
    ],
)
def test_weights_of_another_kind_are_refused(folder, name, dtype, refused):
    stored = load_file(folder / "model.safetensors")
    save_file({**stored, name: stored[name].to(dtype)}, folder / "model.safetensors")
    edit_config(folder, sha256={"model.safetensors": sha256(folder / "model.safetensors")})
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(folder)


def test_classes_load_their_own_architecture_alone(folder, refused):
    assert isinstance(segzoo.CMUNeXt.from_pretrained(folder), segzoo.CMUNeXt)
    with refused(segzoo.SegzooError):
        segzoo.LVUNet.from_pretrained(folder)


def flip_a_byte(folder):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def truncate(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def put_a_pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"head.weight": 1}))
    edit_config(folder, sha256={"model.safetensors": sha256(folder / "model.safetensors")})


def put_other_tensors(folder):
    save_file({"head.weight": torch.zeros(1)}, folder / "model.safetensors")
    edit_config(folder, sha256={"model.safetensors": sha256(folder / "model.safetensors")})


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate,
        put_a_pickle,
        put_other_tensors,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: edit_config(folder, sha256={}),
        lambda folder: edit_config(folder, format=99),
        lambda folder: edit_config(folder, model={"name": "unet", "arguments": {}}),
        lambda folder: edit_config(folder, model={"name": "cmunext_s", "arguments": {"x": 1}}),
        lambda folder: edit_config(folder, model={"name": ["a"], "arguments": {}}),
        lambda folder: edit_config(folder, model={"name": "cmunext_s", "arguments": {"num_classes": "1"}}),
        lambda folder: edit_config(folder, model={"name": "cmunext_s", "arguments": {"multilabel": "no"}}),
        lambda folder: edit_config(folder, class_names=3),
        lambda folder: edit_config(folder, class_names=["background"]),
        lambda folder: edit_config(folder, class_names=["background", 1]),
        lambda folder: edit_config(folder, metrics=None),
        lambda folder: edit_config(folder, data=[1]),
        lambda folder: edit_config(folder, licences="MIT"),
        lambda folder: edit_config(folder, preprocessing=5),
        lambda folder: edit_config(
            folder, preprocessing={"channels": 3, "image_size": None, "mean": ["a"] * 3, "std": [1] * 3}
        ),
        lambda folder: edit_config(
            folder, sha256={"../x": "0", "model.safetensors": sha256(folder / "model.safetensors")}
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(folder, damage, refused):
    damage(folder)
    with refused(segzoo.SegzooError) as raised:
        segzoo.from_pretrained(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["./missing", "../missing", "runs/missing.", "user/repo--x", "user/" + 97 * "a"])
def test_what_no_repository_can_be_called_is_no_checkpoint_either(name, refused):
    with refused(segzoo.MissingError):
        segzoo.from_pretrained(name)


def test_a_file_is_no_checkpoint(folder, refused):
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(folder / "model.safetensors")


@pytest.mark.parametrize("value", ["3", 3.0, True, [3]])
@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_a_number_of_another_type_is_told_by_its_own_name(folder, argument, value, refused):
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(folder, **{argument: value})
    with refused(segzoo.SegzooError):
        segzoo.create_model("cmunext_s", **{argument: value})


@pytest.mark.parametrize("value", ["no", 1, None])
def test_multilabel_is_true_or_false_and_no_word_that_counts_as_either(value, refused):
    with refused(segzoo.SegzooError):
        segzoo.create_model("cmunext_s", multilabel=value)


@pytest.mark.parametrize("name", ["", None, 3])
def test_what_is_no_name_is_no_checkpoint(name, refused):
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(name)


@pytest.mark.parametrize("config", [None, '{"lr": 1}', "{"])
def test_saving_never_destroys_other_files(model, tmp_path, config, refused):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("words")
    if config is not None:
        (tmp_path / "thesis" / "config.json").write_text(config)
    with refused(segzoo.SegzooError):
        model.save_pretrained(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "words"


@pytest.mark.parametrize(
    "change",
    [lambda model, folder: model.save_pretrained(folder), lambda _, folder: record(folder, version="1.1")],
)
def test_what_lies_beside_a_checkpoint_stays(model, tmp_path, change):
    (tmp_path / "run.yaml").write_text("seed_everything: 1\n")
    folder = model.save_pretrained(tmp_path / "mine", train_config=tmp_path / "run.yaml")
    (folder / ".git" / "refs").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (folder / "model.onnx").write_bytes(b"exported")
    (folder / "newest").symlink_to("model.onnx")
    change(model, folder)
    assert (folder / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
    assert (folder / ".git" / "refs").is_dir()
    assert (folder / "newest").readlink().name == "model.onnx"
    assert (folder / "newest").read_bytes() == b"exported"
    assert segzoo.from_pretrained(folder).model_name == "cmunext_s"


def test_a_checkpoint_is_saved_where_a_link_leads_and_in_the_folder_one_is_in(model, folder, tmp_path, monkeypatch):
    model.class_names = ("background", "new")
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert model.save_pretrained(link) == link
    assert link.is_symlink()
    assert segzoo.from_pretrained(folder).class_names == ("background", "new")
    monkeypatch.chdir(folder)
    record(Path(), version="1.1")
    assert json.loads(Path("config.json").read_text())["version"] == "1.1"
    assert {path.name for path in tmp_path.iterdir()} == {"link", folder.name}


def test_files_of_the_old_checkpoint_alone_go_with_it(model, tmp_path):
    (tmp_path / "run.yaml").write_text("seed_everything: 1\n")
    folder = model.save_pretrained(tmp_path / "mine", train_config=tmp_path / "run.yaml")
    model.save_pretrained(folder)
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_saving_again_replaces_the_checkpoint(model, folder):
    with torch.no_grad():
        model.head.bias.fill_(3)
    model.save_pretrained(folder)
    assert segzoo.from_pretrained(folder).head.bias == 3
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no drafts left behind


def test_numbers_of_numpy_are_saved_as_plain_ones(tmp_path):
    model = segzoo.create_model("cmunext_s", num_classes=np.int64(3))
    folder = model.save_pretrained(tmp_path / "saved", metrics={"original": {"dice": np.float32(0.5)}})
    assert segzoo.from_pretrained(folder).num_classes == 3


def test_what_could_not_be_loaded_is_not_saved(model, folder, refused):
    model.class_names = ("background", "liver", "tumour")
    with refused(segzoo.SegzooError):
        model.save_pretrained(folder)
    assert segzoo.from_pretrained(folder).class_names == ("background", "class 1")


def test_a_model_without_a_name_cannot_be_saved(tmp_path, refused):
    with refused(segzoo.SegzooError):
        segzoo.CMUNeXt(widths=(4, 4, 4, 4, 4)).save_pretrained(tmp_path / "nameless")
