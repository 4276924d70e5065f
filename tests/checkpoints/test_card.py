"""Cards of made-up checkpoints: what a config says, its card says, and nothing more."""

import ast
import re
import shlex
from dataclasses import asdict
from typing import Any

import pytest
from huggingface_hub import ModelCard

import segzoo
from segzoo.catalogue import DATASETS
from segzoo.checkpoints.card import RESOLUTIONS, render_card
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.licences import HUB_LICENCES, allows, hub_licence, licence_name
from segzoo.cli.command import build_parser
from segzoo.metrics.metric import Dice, HausdorffDistance95
from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing
from segzoo.registry import ModelFacts
from segzoo.tasks import Task

RESEARCH = "LicenseRef-research-and-education-only"


def training(dataset: str, licence: str, **more: Any) -> dict[str, Any]:
    """What a DataModule says of itself."""
    split = {"split": "grouped", "fold": 1, "seed": 42, "split_sha256": f"sha of {dataset}"}
    held = {"counts": {"train": 30, "val": 10, "test": 12}, "longest_side": 320}
    return {"dataset": dataset, **split, **held, "licence": licence, **more}


def checkpoint(model: str, classes: list[str], multilabel: bool = False, **more: Any) -> dict[str, Any]:
    """The config of a checkpoint of which nothing is recorded, and whatever is given."""
    return {
        "format": 1,
        "segzoo_version": "0.3.0",
        "name": f"{model.replace('_', '-')}-toys",
        "version": "1.2",
        "model": {"name": model, "arguments": asdict(Task.of_classes(classes, multilabel))},
        "parameters": 1234,
        "preprocessing": Preprocessing().to_dict(),
        "class_names": classes,
        "data": {},
        "metrics": {},
        "licences": {"code": "Apache-2.0", "weights": None, "data": None},
        "sha256": {"model.safetensors": "0" * 64},
        **more,
    }


def measured(names: dict[str, float], images: int = 12) -> dict[str, Any]:
    """What ``segzoo test --record true`` writes."""
    distance = HausdorffDistance95()
    distance._in_mm = any(name.startswith("hd95_") for name in names)  # of volumes, here
    overlap, pooled = Dice(), Dice(aggregation="dataset")
    protocols = {"dice": overlap, "iou": overlap, "dataset_dice": pooled, "dataset_iou": pooled, "hd95": distance}
    protocols |= {"precision": overlap, "recall": overlap}
    words = {"protocols": {name: metric.protocol for name, metric in protocols.items()}}
    resized = {name: value + 0.01 for name, value in names.items()}
    return {**words, "images": images, "original": names, "resized": resized}


BINARY = checkpoint(
    "lv_unet",
    ["background", "lesion"],
    data=training("BUSI", "CC0-1.0", normal=False),
    metrics=measured({"dataset_dice": 0.81, "dice": 0.7123, "iou": 0.61}),
    licences={"code": "Apache-2.0", "weights": "CC0-1.0", "data": "CC0-1.0"},
    example={"source": "BUSI, benign (181)", "licence": "CC0-1.0"},
    sha256=dict.fromkeys(("model.safetensors", "train.yaml", "probe.safetensors", "example.png"), "0" * 64),
)
VOLUMES = checkpoint(
    "mednext_s_k3",
    ["background", "Anterior", "Posterior"],
    preprocessing=VolumePreprocessing(patch_size=(40, 56, 40)).to_dict(),
    data=training("Task04_Hippocampus", "CC-BY-SA-4.0", channels=["MRI"], patch_size=[40, 56, 40])
    | {
        "pretrained_on": [
            training("BUSI + KvasirSEG", f"CC0-1.0 + {RESEARCH}")
            | {"datasets": [training("BUSI", "CC0-1.0"), training("KvasirSEG", RESEARCH)]},
        ]
    },
    metrics=measured({"dice": 0.8, "dice_1": 0.75, "dice_2": 0.85, "hd95": 1.5, "hd95_1": 1.25, "hd95_2": 1.75}),
    licences={"code": "Apache-2.0", "weights": f"CC-BY-SA-4.0 + CC0-1.0 + {RESEARCH}", "data": "CC-BY-SA-4.0"},
)
MULTILABEL = checkpoint(
    "cmunext_s",
    ["disc", "cup"],
    multilabel=True,
    data=training("Folder", "unknown"),
    metrics=measured({"dice": 0.8, "dice_0": 0.9, "dice_1": 0.7}),
    licences={"code": "Apache-2.0", "weights": RESEARCH, "data": "unknown"},
)
UNRECORDED = checkpoint("med_urwkv", ["background", "class 1"])
LEAST = {key: UNRECORDED[key] for key in ("format", "model", "preprocessing", "class_names", "sha256")}
STRANGE = checkpoint("cmunext", ["background", 'a | "b"'], name='it\'s "mine"', metrics=measured({"dice_1": 0.5}))
ALL = {
    "binary": BINARY,
    "volumes": VOLUMES,
    "multilabel": MULTILABEL,
    "unrecorded": UNRECORDED,
    "least": LEAST,
    "strange": STRANGE,
}


def header(config: dict[str, Any]) -> dict[str, Any]:
    return ModelCard(render_card(Config(config))).data.to_dict()


def body(config: dict[str, Any]) -> str:
    return ModelCard(render_card(Config(config))).text


@pytest.fixture(params=ALL)
def config(request) -> dict[str, Any]:
    return ALL[request.param]


# ---- the header


def test_every_card_is_one_of_the_hubs(config):
    card = ModelCard(render_card(Config(config)))
    found = card.data
    assert (found.library_name, found.pipeline_tag) == ("segzoo", "image-segmentation")
    assert {"medical-imaging", "segmentation", config["model"]["name"]} < set(found.tags)
    assert len(set(found.tags)) == len(found.tags)
    assert found.license in [*HUB_LICENCES.split(), "other"]
    assert (found.license == "other") == ("license_name" in found.to_dict())
    assert not {"datasets", "base_model"} & set(found.to_dict())  # the Hub has none of the former, nobody the latter
    metrics = config.get("metrics", {})
    assert {
        (each.metric_args["resolution"], each.metric_type): each.metric_value for each in found.eval_results or []
    } == {(words, name): value for part, words in RESOLUTIONS.items() for name, value in metrics.get(part, {}).items()}
    assert not metrics or found.model_name == config["name"]


@pytest.mark.parametrize(
    ("config", "tags"),
    [
        (BINARY, ["lv_unet", "busi", "2d", "ultrasound"]),
        (VOLUMES, ["mednext_s_k3", "task04_hippocampus", "3d", "mri"]),
        (MULTILABEL, ["cmunext_s", "2d"]),
        (VOLUMES | {"data": training("mine", "MIT", channels=["CT", "PET"])}, ["mednext_s_k3", "mine", "3d", "ct"]),
        (
            UNRECORDED | {"data": {"datasets": [training("KvasirSEG", RESEARCH), training("CVCClinicDB", RESEARCH)]}},
            ["med_urwkv", "kvasirseg", "cvcclinicdb", "2d", "endoscopy"],
        ),
    ],
)
def test_tags_say_what_is_known(config, tags):
    assert header(config)["tags"] == ["medical-imaging", "segmentation", *tags]


def test_results_carry_their_protocol_and_split():
    results = ModelCard(render_card(Config(VOLUMES))).data.eval_results
    assert {each.dataset_args["split_sha256"] for each in results} == {"sha of Task04_Hippocampus"}
    assert {each.dataset_args["longest_side"] for each in results} == {320}
    protocols = {each.metric_type: each.metric_args["protocol"] for each in results}
    assert protocols["dice"] == protocols["dice_2"] == Dice(3).protocol
    assert "mm" in protocols["hd95_1"]


@pytest.mark.parametrize(
    ("licence", "spelling"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("CC0-1.0", "cc0-1.0"),
        ("CC-BY-4.0", "cc-by-4.0"),
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
        ("CC-BY-NC-SA-4.0", "cc-by-nc-sa-4.0"),
        ("CC-BY-NC-ND-4.0", "cc-by-nc-nd-4.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("AGPL-3.0-only", "agpl-3.0"),
        ("ODbL-1.0", "odbl"),
        ("unknown", "unknown"),
        (None, "unknown"),
        ("", "unknown"),
        (RESEARCH, "other"),
        ("CC-BY-9.9", "other"),
        ("CC0-1.0 + MIT", "other"),
    ],
)
def test_licences_in_the_hubs_spelling(licence, spelling):
    assert hub_licence(licence) == spelling


def test_a_licence_unknown_to_the_hub_has_its_name_and_its_page():
    polyps = UNRECORDED | {"data": training("KvasirSEG", RESEARCH), "licences": {"weights": RESEARCH}}
    assert {key: value for key, value in header(polyps).items() if "license" in key} == {
        "license": "other",
        "license_name": "research-and-education-only",
        "license_link": "https://datasets.simula.no/kvasir-seg/",
    }
    assert header(VOLUMES)["license_name"] == "cc-by-sa-4.0-and-cc0-1.0-and-research-and-education-only"
    assert "license_link" not in header(VOLUMES)  # several licences have no one page
    both = polyps | {"data": {"datasets": [training("KvasirSEG", RESEARCH), training("CVCClinicDB", RESEARCH)]}}
    assert "license_link" not in header(both)
    chosen = polyps | {"licences": {"weights": "My own, v2"}}
    assert header(chosen)["license_name"] == licence_name("My own, v2") == "my-own-v2"
    assert "license_link" not in header(chosen)  # it is not the data's


@pytest.mark.parametrize(("name", "dataset"), DATASETS.items())
def test_datasets_have_the_facts_of_their_classes(name, dataset):
    known = getattr(segzoo.data, name)
    assert (known.name, known.url, known.licence) == (name, dataset.url, dataset.licence)


# ---- the body


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def calls(code: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """Every call in a snippet: what is called, and with which values."""
    return [
        (
            ast.unparse(node.func),
            [ast.literal_eval(argument) for argument in node.args],
            {word.arg: ast.literal_eval(word.value) for word in node.keywords},
        )
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
    ]


def test_the_python_lines_load_it_through_three_doors(config):
    function, by_class, hub = (
        next(call for call in calls(code) if "from_pretrained" in call[0] or "load" in call[0])
        for code in blocks(body(config), "python")
    )
    name = config.get("name", "checkpoint")
    assert function == ("segzoo.from_pretrained", [name], {})
    package, class_name, method = by_class[0].split(".")
    assert (package, method) == ("segzoo", "from_pretrained")
    assert isinstance(segzoo.create_model(config["model"]["name"]), getattr(segzoo, class_name))
    assert by_class[1:] == ([name], {})
    version = config.get("segzoo_version", segzoo.__version__)
    assert hub == ("torch.hub.load", [f"segzoo/segzoo:v{version}", config["model"]["name"]], {"pretrained": name})


def test_the_shell_lines_are_segzoos(config):
    (block,) = blocks(body(config), "shell")
    predict, verify = ([*shlex.split(line)] for line in block.splitlines())
    assert predict[:3] == ["segzoo", "predict", config.get("name", "checkpoint")]
    assert verify == ["segzoo", "verify", config.get("name", "checkpoint")]
    for command in (predict, verify):
        build_parser().parse_args(command[1:])


def test_a_published_checkpoint_is_loaded_from_the_zoos_organisation():
    text = body(BINARY | {"name": "lv-unet-busi", "version": "1.0"})
    assert 'segzoo.LVUNet.from_pretrained("segzoo/lv-unet-busi", revision="v1.0")' in text
    assert "stands for the path" not in text
    newer = body(BINARY | {"name": "lv-unet-busi"})  # one that somebody has tuned, and the zoo has not published
    assert "`lv-unet-busi` stands for the path" in newer
    assert "`lv-unet-toys` stands for the path of this folder or, on the Hub, for its `user/repo`" in body(BINARY)
    assert '`revision="v1.2"` asks for it and no other' in newer
    assert "tag `v1.0`" in body(LEAST)


def test_masks_and_images_are_named_by_their_kind():
    assert "its mask: 0 background, 1 lesion." in body(BINARY)
    assert "marks Anterior and Posterior; whatever" in body(VOLUMES)
    assert "a mask for each of these, and they may overlap: disc, cup." in body(MULTILABEL)
    assert 'model.predict("scan.png")' in body(MULTILABEL)
    assert 'model.predict("scan.nii.gz")' in body(VOLUMES)
    assert "lv-unet-toys images/ --output" in body(BINARY)
    assert "scans/ --output" in body(VOLUMES)


def test_limits_are_those_of_its_data(config):
    text = body(config)
    assert "**not a medical device**" in text
    assert "How good it is was not measured" not in text or not config.get("metrics")
    assert ("a mean hides the images" in text) == bool(config.get("metrics"))
    assert ("so which images it suits is unknown" in text) == (not config.get("data"))


def test_the_images_it_knows_are_named_where_they_are_known():
    assert "like those that it was trained on: breast ultrasound (BUSI). Of" in body(BINARY)
    assert "like those that it was trained on: MRI (Task04_Hippocampus). Of" in body(VOLUMES)
    assert "like those that it was trained on. Of" in body(MULTILABEL)
    assert "every image that it was trained on shows a lesion" in body(BINARY).lower()
    assert "shows a lesion" not in body(BINARY | {"data": training("BUSI", "CC0-1.0", normal=True)})


def test_what_a_wrong_header_does_is_said_of_volumes():
    assert "by what the header says of its axes; where that is wrong, so is the mask. MONAI's" in body(VOLUMES)
    others = body(VOLUMES | {"data": training("mine", "MIT", channels=["CT"])})
    assert "by what the header says of its axes; where that is wrong, so is the mask.\n" in others
    assert "the header" not in body(BINARY)


def test_regions_are_told_with_their_values():
    regions = checkpoint("mednext_s_k3", ["whole", "core"], multilabel=True, region_values=[1, 2])
    preprocessing = VolumePreprocessing(
        2, intensity=["zscore", "window"], window=[None, (0, 9)], mean=[None, 4], std=[None, 2]
    )
    text = body(regions | {"preprocessing": preprocessing.to_dict()})
    assert "of each voxel the last of these that holds it: 1 whole, 2 core." in text
    assert "standard deviation 1, channel 2 clipped to 0..9 and normalised by mean 4 and standard deviation 2." in text


@pytest.mark.parametrize(
    ("split", "said", "unsaid"),
    [
        ("grouped", "near copy of one of the others", "flatter"),
        ("random-64-16-20", "which flatters the results", "chose the best epoch:"),
        ("random-70-30", "also chose the best epoch: both flatter", "near copy of one of the others"),
        ("all", "the very images it was trained on", "The 12 held-out images"),
    ],
)
def test_what_the_held_out_images_are_and_are_not(split, said, unsaid):
    text = body(BINARY | {"data": training("BUSI", "CC0-1.0", split=split)})
    assert said in text
    assert unsaid not in text
    assert ("The 12 held-out images come from the same source" in text) == (split != "all")


def test_results_on_other_images_are_not_called_held_out():
    text = body(BINARY | {"metrics": measured({"dice": 0.9}, images=400)})
    assert "not recorded on which 400 images the results were measured: the test part has 12" in text
    assert "held-out images come" not in text


def test_pretraining_that_may_have_seen_the_held_out_images_is_said():
    data = training("BUSI", "CC0-1.0")
    before = {"dataset": "BUSI + DSB2018", "datasets": [training("BUSI", "CC0-1.0"), training("DSB2018", "CC0-1.0")]}
    assert "pretrained on another split" not in body(BINARY | {"data": data | {"pretrained_on": [before]}})
    before["datasets"][0] |= {"split_sha256": "other"}
    text = body(BINARY | {"data": data | {"pretrained_on": [before]}})
    assert "It was pretrained on another split of BUSI, so it may have seen some of them." in text


def test_training_is_told_in_full():
    text = body(VOLUMES)
    line = (
        "split `grouped`, fold 1: 30 images to train, 10 to choose the best epoch, 12 to test (seed 42, sha256 of the"
    )
    volumes, images = (f"images of at most 320 {unit} a side, {line}" for unit in ("voxels", "pixels"))
    assert f"- [Task04_Hippocampus](http://medicaldecathlon.com), {volumes} split `sha of Task04_Hippocampus`)" in text
    before = text.partition("Before that:")[2].partition("## Results")[0]
    assert f"- [BUSI]({DATASETS['BUSI'].url}), {images} split `sha of BUSI`)" in before
    assert f"- [KvasirSEG]({DATASETS['KvasirSEG'].url}), {images} split `sha of KvasirSEG`)" in before
    assert "train.yaml" not in text
    assert "`segzoo fit -c train.yaml` trains it again" in body(BINARY)
    assert "What it was trained on is not recorded." in body(UNRECORDED)


def test_parts_that_data_does_not_have_are_not_told():
    before = {
        "datasets": [{"dataset": "Photographs", "counts": {"train": 9}}, {"dataset": "BUSI", "licence": "CC0-1.0"}]
    }
    text = body(BINARY | {"data": training("BUSI", "CC0-1.0") | {"pretrained_on": [before]}})
    assert "- Photographs: 9 images to train\n" in text
    assert f"| earlier training data (Photographs, [BUSI]({DATASETS['BUSI'].url})) | CC0-1.0 |" in text


def test_the_weights_that_training_started_from_are_named():
    text = body(BINARY | {"started_from": {"encoder_weights": "imagenet.safetensors"}})
    assert "It started from the weights `imagenet.safetensors` (`encoder_weights` of its recipe)" in text
    assert "It started from" not in body(BINARY)


def test_results_say_how_they_were_counted():
    text = body(VOLUMES)
    assert "| Dice | 0.8000 | 0.8100 |" in text
    assert "| class | Dice | 95% Hausdorff distance, mm |" in text
    assert "| Posterior | 0.8500 | 1.7500 |" in text
    assert "on 12 images of at most 320 voxels a side" in text
    assert f"- Dice: {Dice(3).protocol}." in text
    assert "- 95% Hausdorff distance, mm: per-image mean in mm, " in text
    assert f"- Dice (dataset): {Dice(aggregation='dataset').protocol}." in body(BINARY)
    assert "| disc | 0.9000 |" in body(MULTILABEL)
    assert '| a \\| "b" | 0.5000 |' in body(STRANGE)
    assert "Not measured." in body(UNRECORDED)


def test_the_licences_stand_apart():
    rows = [line for line in body(VOLUMES).splitlines() if line.startswith("| ")][-4:]
    assert rows[0] == "| code | Apache-2.0 | any use; keep its notices and say what you changed |"
    assert rows[1].startswith(f"| weights | CC-BY-SA-4.0 + CC0-1.0 + {RESEARCH} | CC-BY-SA-4.0: any use, with credit;")
    assert rows[1].endswith(f"{RESEARCH}: research and education only |")
    assert rows[2].startswith(
        "| training data ([Task04_Hippocampus](http://medicaldecathlon.com)) | CC-BY-SA-4.0 | any"
    )
    assert rows[3].startswith(f"| earlier training data ([BUSI]({DATASETS['BUSI'].url}), [KvasirSEG](")
    assert "| example image (BUSI, benign (181)) | CC0-1.0 | any use, without conditions |" in body(BINARY)
    hashes = {name: "0" * 64 for name in BINARY["sha256"] if name != "example.png"}
    assert "| image that probe.safetensors holds (BUSI, benign (181)) |" in body(BINARY | {"sha256": hashes})
    assert "| weights | not stated |  |" in body(UNRECORDED)


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        ("CC-BY-NC-SA-4.0", "no commercial use; with credit; what is made from it is shared under the same licence"),
        ("cc-by-nc-3.0", "no commercial use; with credit"),
        (RESEARCH, "research and education only"),
        ("GPL-3.0-only", ""),
        ("hands-off!", ""),
        (None, ""),
        ("MIT + hands-off!", "MIT: any use; keep its notice"),
    ],
)
def test_a_licence_is_explained_where_that_is_certain(licence, words):
    assert allows(licence) == words


def test_a_picture_is_shown_if_there_is_one():
    assert "![Input, truth and prediction](example.png)" in body(BINARY)
    assert "Input, truth and prediction; BUSI, benign (181), CC0-1.0." in body(BINARY)
    hashes = {name: "0" * 64 for name in BINARY["sha256"] if name != "example.png"}
    assert "example.png" not in body(BINARY | {"sha256": hashes})
    unsaid = {key: value for key, value in BINARY.items() if key != "example"}
    assert "(example.png)\n\nInput, truth and prediction.\n" in body(unsaid)


def test_verify_promises_what_the_checkpoint_can_keep():
    assert "intact and that it computes here" in body(BINARY)
    assert "that the files are intact:" in body(VOLUMES)


def test_a_model_of_another_package_is_loaded_by_name_with_that_package(monkeypatch):
    facts = ModelFacts("my_net", "my_nets.my_net", "A small net.", 5, "https://example.org/paper")
    monkeypatch.setattr("segzoo.checkpoints.card.model_facts", {"my_net": facts}.__getitem__)
    model = {"name": "my_net", "arguments": {}, "package": "my-nets"}
    text = body(BINARY | {"model": model})
    assert "A small net. Paper: https://example.org/paper. 1,234 parameters." in text
    assert "`pip install medsegzoo my-nets` installs segzoo and the package of its model." in text
    assert 'segzoo.from_pretrained("lv-unet-toys")' in text
    assert "torch.hub" not in text  # it knows the zoo's own alone
    assert "By class" not in text
