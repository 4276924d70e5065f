"""Every checkpoint in model_cards/ is what its config and its card say."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer

import segzoo
from segzoo.card import render_card
from segzoo.data.samples import read_label
from segzoo.metrics import image_scores

CARDS = sorted(Path(__file__).parents[1].joinpath("model_cards").glob("*/config.json"))


@pytest.fixture(params=CARDS, ids=lambda path: path.parent.name)
def folder(request) -> Path:
    return request.param.parent


@pytest.fixture
def config(folder) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_there_are_checkpoints():
    assert "lv-unet-busi" in [card.parent.name for card in CARDS]
    assert set(segzoo.list_checkpoints()) >= {card.parent.name for card in CARDS}


def test_it_loads_by_name_and_is_what_its_config_says(folder, config):
    model = segzoo.from_pretrained(folder.name)
    assert config["name"] == folder.name
    assert model.model_name == config["model"]["name"]
    assert sum(parameter.numel() for parameter in model.parameters()) == config["parameters"]
    assert model.is_deployable
    assert all(config["licences"].values())


def test_the_card_is_made_from_the_config_alone(folder, config):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == render_card(config)
    header = yaml.safe_load(card.split("---")[1])
    results = header["model-index"][0]["results"]
    quoted = {
        (metric["args"]["resolution"], metric["type"]): metric["value"]
        for result in results
        for metric in result["metrics"]
    }
    assert quoted["original", "dice"] == config["metrics"]["original"]["dice"]
    assert f"{config['metrics']['original']['dice']:.4f}" in card
    assert "not a medical device" in card


def test_the_readme_quotes_the_card(folder, config):
    readme = (folder.parents[1] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| [`{folder.name}`]"))
    assert f"Dice {config['metrics']['original']['dice']:.3f}" in row
    assert f"IoU {config['metrics']['original']['iou']:.3f}" in row


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
    data = getattr(segzoo.data, data_facts["dataset"])(
        shared / "data", split=data_facts["split"], fold=data_facts["fold"], seed=data_facts["seed"]
    )
    assert data.split_sha256 == data_facts["split_sha256"]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (measured,) = trainer.test(segzoo.from_pretrained(folder), data, verbose=False)
    for part, prefix in (("original", "test/"), ("resized", "test_resized/")):
        for name, value in config["metrics"][part].items():
            assert measured[prefix + name] == pytest.approx(value, abs=1e-3), name
