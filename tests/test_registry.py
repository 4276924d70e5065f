import importlib
import subprocess
import sys

import pytest
import torch

import segzoo
from segzoo.registry import models


@pytest.mark.parametrize("name", segzoo.list_models())
def test_listed_facts_are_those_of_the_built_model(name):
    facts = models()[name]
    with torch.device("meta"):  # the largest is of 141 million parameters
        model = segzoo.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.parameters
    assert facts.summary
    assert facts.paper.startswith("https://arxiv.org/abs/")
    module, _, function = facts.builder.rpartition(".")
    assert getattr(importlib.import_module(module), function).__name__ == model.model_name
    assert facts.pretrained is None or facts.pretrained.startswith(f"{model.model_name.replace('_', '-')}-")


def test_listing_imports_nothing_heavy():
    code = "import sys, segzoo; segzoo.list_models(); segzoo.list_checkpoints(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "segzoo.registry" in loaded
    assert not {"torch", "lightning", "monai", "timm", "numpy", "PIL", "huggingface_hub"} & set(loaded)


def test_patterns():
    assert segzoo.list_models("cmunext*") == ["cmunext", "cmunext_l", "cmunext_s"]
    assert segzoo.list_models("*unet") == ["lv_unet"]
    assert segzoo.list_models("nothing*") == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lvunet", {}),
        ("cmunext_x", {}),
        ("cmunext_s", {"classes": 3}),
        ("cmunext_s", {"widths": (1, 2, 3, 4, 5)}),
        ("cmunext_s", {"num_classes": 0}),
        ("lv_unet", {"encoder": "resnet18"}),
        ("lv_unet", {"encoder": "mobilenetv3_small_100"}),
        ("lv_unet", {"encoder": "mobilenet_v3_large"}),
    ],
)
def test_what_cannot_be_built_is_one_sentence(name, arguments, refused):
    with refused(segzoo.SegzooError) as raised:
        segzoo.create_model(name, **arguments)
    assert "\n" not in str(raised.value)


def test_models_record_their_name_and_architecture_alone():
    model = segzoo.create_model("lv_unet", in_channels=1, num_classes=4, optimizer=lambda parameters: None)
    assert model.model_name == "lv_unet"
    assert model.arguments == {
        "in_channels": 1,
        "num_classes": 4,
        "multilabel": False,
        "encoder": "mobilenetv3_large_100",
    }
