"""Every checkpoint in model_cards/ is what its config and its card say."""

import ast
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from lightning import Trainer

import segzoo
from segzoo.checkpoints.card import RESOLUTIONS, render_card
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.encoder import read_stored
from segzoo.checkpoints.encoder_card import card_of
from segzoo.checkpoints.pins import ORGANISATION
from segzoo.data.samples import read_label
from segzoo.hub.verify import verify
from segzoo.metrics.per_image import image_scores

ROOT = Path(__file__).parents[2] / "model_cards"
CARDS = [ROOT / name / "config.json" for name in segzoo.list_checkpoints()]
ENCODERS = [ROOT / name for name in segzoo.list_encoders()]


@pytest.fixture(params=CARDS, ids=lambda path: path.parent.name)
def folder(request) -> Path:
    return request.param.parent


@pytest.fixture
def config(folder) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_there_are_checkpoints():
    assert "lv-unet-busi" in [card.parent.name for card in CARDS]
    found = {card.parent for card in ROOT.glob("*/config.json")}
    assert found == {card.parent for card in CARDS} | set(ENCODERS)


def test_it_loads_by_name_and_is_what_its_config_says(folder, config):
    model = segzoo.from_pretrained(folder.name)
    assert config["name"] == folder.name
    assert model.model_name == config["model"]["name"]
    assert sum(parameter.numel() for parameter in model.parameters()) == config["parameters"]
    assert model.is_deployable
    assert all(config["licences"].values())


def test_the_card_is_made_from_the_config_alone(folder, config):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == render_card(read_config(folder)), "run `python .github/release.py pin`"
    assert f"{config['metrics']['original']['dice']:.4f}" in card
    assert "not a medical device" in card
    for name in re.findall(r"\]\(([^):]+)\)", card):  # pictures and links into the folder
        assert name in config["sha256"]


def test_the_cards_header_has_the_configs_results(folder, config):
    header = ModelCard.load(folder / "README.md").data
    assert (header.model_name, header.library_name) == (config["name"], "segzoo")
    quoted = {(each.metric_args["resolution"], each.metric_type): each.metric_value for each in header.eval_results}
    assert quoted == {
        (words, name): value for part, words in RESOLUTIONS.items() for name, value in config["metrics"][part].items()
    }
    assert all(each.metric_args["protocol"].startswith(("per-image", "pixels")) for each in header.eval_results)
    assert {each.dataset_args["split_sha256"] for each in header.eval_results} == {config["data"]["split_sha256"]}


def snippets(folder: Path) -> list[str]:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_cards_lines_name_what_there_is(folder, config):
    _, by_class, through_hub = (ast.unparse(ast.parse(code).body[1].value) for code in snippets(folder))
    class_name, repository = re.fullmatch(
        r"segzoo\.(\w+)\.from_pretrained\('([^']+)', revision='v.+'\)", by_class
    ).groups()
    assert repository == f"{ORGANISATION}/{folder.name}"
    assert isinstance(segzoo.create_model(config["model"]["name"]), getattr(segzoo, class_name))
    pattern = r"torch\.hub\.load\('segzoo/segzoo:v[^']+', '(\w+)', pretrained='([^']+)'\)"
    entry_point, checkpoint = re.fullmatch(pattern, through_hub).groups()
    spec = importlib.util.spec_from_file_location("hubconf", folder.parents[1] / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    model = getattr(hubconf, entry_point)(pretrained=checkpoint)
    assert Path(model.load_report.source) == folder


def test_the_cards_first_lines_run(folder, config, samples, tmp_path, monkeypatch):
    of_volumes = "patch_size" in config["preprocessing"]
    image = next(samples.rglob("imagesTr/*.nii.gz" if of_volumes else "benign (9).png"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(image, "scan.nii.gz" if of_volumes else "scan.png")
    result = {}
    exec(snippets(folder)[0], result)
    assert (tmp_path / "overlay.png").is_file()
    assert any(tmp_path.glob("mask*"))
    assert np.isfinite(result["result"].probabilities).all()


def test_the_readme_quotes_the_card(folder, config):
    readme = (folder.parents[1] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| [`{folder.name}`]"))
    assert f"| {config['metrics']['original']['dice']:.3f} [" in row


def test_the_recipe_names_no_machine(folder, config):
    recipe = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    assert not Path(recipe["data"]["init_args"]["root"]).is_absolute()
    assert recipe["trainer"]["default_root_dir"] is None
    if recipe["model"]["class_path"] == "segzoo.hub.from_pretrained":
        assert config["data"]["pretrained_on"]
        assert not Path(recipe["model"]["init_args"]["name_or_path"]).is_absolute()
    else:
        assert recipe["model"]["class_path"].startswith("segzoo.models.")


def test_lv_unet_busi_finds_lesions_that_it_was_not_trained_on(samples):
    held_out = {"benign (181)", "benign (84)", "malignant (35)"}
    model = segzoo.from_pretrained("lv-unet-busi")
    chosen = [sample for sample in segzoo.data.BUSI(samples / "BUSI").samples() if sample.id in held_out]
    assert len(chosen) == len(held_out)
    for sample in chosen:
        mask = torch.from_numpy(model.predict(sample.image).mask)[None]
        assert image_scores(mask, torch.from_numpy(read_label(sample, 2, False))[None])[0]["dice"] > 0.6


@pytest.mark.slow
def test_the_test_split_gives_the_cards_numbers(folder, config, shared, tmp_path):
    data_facts = config["data"]
    recipe = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))["data"]
    groups = recipe["init_args"].get("groups")
    grouped = {} if groups is None else {"groups": shared / groups}
    data = getattr(segzoo.data, recipe["class_path"].rpartition(".")[2])(
        shared / recipe["init_args"]["root"],
        split=data_facts["split"],
        fold=data_facts["fold"],
        seed=data_facts["seed"],
        **grouped,
    )
    assert data.split_sha256 == data_facts["split_sha256"]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    model = segzoo.from_pretrained(folder)
    model.metric_names = [name for name in config["metrics"]["resized"] if not name.startswith("dataset_")]
    (measured,) = trainer.test(model, data, verbose=False)
    for part, prefix in (("original", "test/"), ("resized", "test_resized/")):
        for name, value in config["metrics"][part].items():
            assert measured[prefix + name] == pytest.approx(value, abs=1e-3), name


# ---- encoders


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda folder: folder.name)
def test_an_encoder_is_what_its_config_and_its_card_say(encoder):
    assert (encoder / "README.md").read_text(encoding="utf-8") == card_of(read_stored(encoder))
    assert "its features are equal" in verify(encoder.name)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("form", ["plain", "adapter"])
def test_a_model_starts_from_an_encoder_without_a_network(encoder, form, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = segzoo.create_model("med_urwkv", encoder=form, encoder_weights=encoder.name)
    assert len(model.load_report.loaded) > 200
    assert model.data["datasets"]
