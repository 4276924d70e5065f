"""The original implementations' outputs from their own weights, through segzoo.convert."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import segzoo

GOLDEN = ("cmunext_s", "lv_unet")


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def converted(name: str, state: dict[str, Tensor], **arguments):
    model = segzoo.create_model(name, **arguments).double().eval()
    model.load_state_dict(segzoo.convert(state, model), strict=True)
    return model


def largest_difference(model, tensors: dict[str, Tensor], outputs: str) -> float:
    """max|a-b| / max|b| over all inputs, in float64."""
    differences = []
    for tag, expected in part(tensors, outputs).items():
        with torch.inference_mode():
            logits = model(tensors[f"input/{tag}"].double())
        differences.append(((logits - expected).abs().max() / expected.abs().max()).item())
    assert len(differences) >= 2
    return max(differences)


def test_cmunext_s_computes_what_the_original_does(golden):
    tensors, _ = golden("cmunext_s")
    assert largest_difference(converted("cmunext_s", part(tensors, "state/")), tensors, "output64/") <= 1e-9


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_lv_unet_computes_what_the_original_does(golden, slope):
    tensors, _ = golden("lv_unet")
    model = converted("lv_unet", part(tensors, "state/"))
    model.deep_training_lambda.fill_(slope)
    assert largest_difference(model, tensors, f"output64/train_structure_lambda{slope}/") <= 1e-9


def test_fused_lv_unet_computes_what_the_original_does(golden):
    tensors, _ = golden("lv_unet")
    fused = converted("lv_unet", part(tensors, "deploy_state/"), deployed=True)
    assert largest_difference(fused, tensors, "output64/deploy/") <= 1e-9
    model = converted("lv_unet", part(tensors, "state/"))
    model.deep_training_lambda.fill_(1)
    assert largest_difference(model.deploy(), tensors, "output64/train_structure_lambda1.0/") <= 1e-9
    # the original fuses in float32
    assert largest_difference(model.deploy(), tensors, "output64/deploy/") <= 5e-6


@pytest.mark.parametrize("name", GOLDEN)
def test_training_mode_computes_the_originals_loss_gradients_and_statistics(golden, name):
    tensors, facts = golden(name)
    model = converted(name, part(tensors, "state/")).train()
    logits = model(tensors["train_mode/input"].double())
    torch.testing.assert_close(logits, tensors["train_mode/output"], rtol=1e-9, atol=1e-9)
    loss = model.compute_loss(logits, (tensors["train_mode/mask"][:, 0] > 0.5).long())
    assert loss.item() == pytest.approx(facts["train_mode"]["loss"], rel=1e-9)
    loss.backward()
    state = part(tensors, "state/")
    names = names_of_originals(state, model)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for original, norm in facts["train_mode"]["grad_norms"].items():
        assert parameters[names[original]].grad.norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-9), original
    for original, norm in facts["train_mode"]["running_stats_l2_after"].items():
        assert buffers[names[original]].norm().item() == pytest.approx(norm, rel=1e-9), original


def names_of_originals(state: dict[str, Tensor], model) -> dict[str, str]:
    """Original name -> ours, found by converting a state dict whose tensors are all numbered."""
    numbered = {
        key: torch.full_like(value, index, dtype=torch.float64) for index, (key, value) in enumerate(state.items())
    }
    keys = list(state)
    ours = {key: value for key, value in segzoo.convert(numbered, model).items() if key != "deep_training_lambda"}
    return {keys[int(value.flatten()[0])]: key for key, value in ours.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_files_and_containers(golden, name, tmp_path):
    state = part(golden(name)[0], "state/")
    save_file(state, tmp_path / "state.safetensors")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "state.pth"
    )
    expected = segzoo.convert(state, name)
    for file in ("state.safetensors", "state.pth"):
        read = segzoo.convert(tmp_path / file, name)
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], value) for key, value in expected.items())


def test_no_tensor_of_a_fused_lv_unet_may_be_missing(golden, refused):
    state = part(golden("lv_unet")[0], "deploy_state/")
    model = segzoo.create_model("lv_unet", deployed=True)
    for lost in state:
        if not lost.endswith("num_batches_tracked"):
            with refused(segzoo.SegzooError):
                segzoo.convert({key: value for key, value in state.items() if key != lost}, model)


@pytest.mark.parametrize("name", ["lv_unet", "cmunext_s", "mednext", "med_urwkv"])
def test_weights_of_ours_stay_as_they_are(name):
    state = segzoo.create_model(name).state_dict()
    converted = segzoo.convert(state, segzoo.create_model(name))
    assert all(torch.equal(converted[key], value) for key, value in state.items())


class Dangerous:
    def __reduce__(self):
        return (print, ("code from a pickle ran",))


@pytest.mark.parametrize("state", [{1: torch.zeros(1)}, {"state_dict": {0: torch.zeros(1)}}])
def test_a_dict_without_names_is_no_state_dict(state, refused):
    with refused(segzoo.SegzooError):
        segzoo.convert(state, "cmunext_s")


def test_refusals(tmp_path, capsys, refused):
    torch.save({"state_dict": Dangerous()}, tmp_path / "evil.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<html>404</html>")
    for source in (
        tmp_path / "evil.pth",
        tmp_path / "broken.safetensors",
        tmp_path / "none.pth",
        tmp_path / "empty.pth",
        tmp_path / "page.pth",
        {"stem.conv.0.weight": 3, "head.bias": None},
        {"stem.conv.0.weight": torch.zeros(8, 3, 3, 3)},
    ):
        with refused(segzoo.SegzooError):
            segzoo.convert(source, "cmunext_s")
    assert "ran" not in capsys.readouterr().out


# ---- MedNeXt: the official names, and MONAI's port as it is installed (its outputs: tests/models/test_mednext.py)

VARIANTS = [f"{size}_k{kernel}" for size in "SBML" for kernel in (3, 5)]
PORTED_DOWN_RATIOS = {"S": (2, 2, 2, 2), "B": (2, 3, 4, 4), "M": (2, 3, 4, 4), "L": (3, 4, 8, 8)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_mednexts_convert_with_and_without_heads(golden_file, variant):
    shapes = json.loads(golden_file("mednext_official_keys.json").read_text())["configs"][variant]["state_dict"]
    name = f"mednext_{variant.lower()}"
    with torch.device("meta"):
        state = {f"module.{key}": torch.empty(shape) for key, shape in shapes.items()}
        headless = {key: value for key, value in state.items() if not re.search(r"out_[1-4]", key)}
        supervised = segzoo.create_model(name, num_classes=4)
        plain = segzoo.create_model(name, num_classes=4, deep_supervision=False)
        for source in ({"state_dict": state}, headless):
            for model in (supervised, plain):
                converted = segzoo.convert(source, model)
                assert converted.keys() == model.state_dict().keys()
                model.load_state_dict(converted, strict=True)
        assert len(segzoo.convert(state, supervised)) == len(state) - 1  # all but the dummy


def test_heads_of_a_mednext_are_all_there_or_none(golden_file, refused):
    shapes = json.loads(golden_file("mednext_official_keys.json").read_text())["configs"]["S_k3"]["state_dict"]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        model = segzoo.create_model("mednext_s_k3", num_classes=4)
        surplus = state | {"out_4.conv_out.scale": torch.empty(4)}
    del state["out_2.conv_out.bias"]
    for other in (state, surplus):
        with refused(segzoo.SegzooError):
            segzoo.convert(other, model)


def test_no_tensor_of_a_mednext_is_lost_or_mixed_up_on_the_way():
    """Every value of MONAI's model stands in ours once, under a name of the same part."""
    from monai.networks.nets.mednext import create_mednext

    ported = create_mednext("S", in_channels=1, out_channels=2, deep_supervision=True)
    names = names_of_originals(ported.state_dict(), segzoo.create_model("mednext", num_classes=2))
    assert len(set(names.values())) == len(ported.state_dict()) == 236
    assert names["out_blocks.0.conv_out.weight"] == "auxiliary_heads.0.weight"
    assert names["enc_stages.2.1.conv2.bias"] == "encoder.2.1.expand.bias"


@pytest.mark.parametrize("dims", [2, 3])
def test_monais_mednext_s_converts_both_ways(dims):
    from monai.networks.nets.mednext import create_mednext

    torch.manual_seed(0)
    ported = create_mednext("S", spatial_dims=dims, in_channels=2, out_channels=3, deep_supervision=True)
    model = segzoo.create_model("mednext", in_channels=2, num_classes=3, spatial_dims=dims)
    ported, model = ported.train().double(), model.train().double()
    image = torch.randn(1, 2, *(32, 16, 16)[:dims], dtype=torch.float64)  # norms of two voxels make much of rounding
    fresh = {key: torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}
    names = names_of_originals(ported.state_dict(), model)

    model.load_state_dict(segzoo.convert(ported.state_dict(), model), strict=True)
    with torch.inference_mode():
        for ours, theirs in zip(model(image), ported(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

    model.load_state_dict(fresh)
    back = {}
    for key in ported.state_dict():
        transposed = re.fullmatch(r".*\.conv_out\.weight|up_blocks\.\d\.res_conv\.weight", key)
        back[key] = fresh[names[key]].transpose(0, 1) if transposed else fresh[names[key]]
    ported.load_state_dict(back, strict=True)
    with torch.inference_mode():
        for ours, theirs in zip(model(image), ported(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_monais_other_sizes_load_with_their_down_ratios(variant, refused):
    from monai.networks.nets.mednext import create_mednext

    size, kernel = variant.split("_k")
    name, ratios = f"mednext_{variant.lower()}", PORTED_DOWN_RATIOS[size]
    with torch.device("meta"):
        state = create_mednext(size, out_channels=4, kernel_size=int(kernel), deep_supervision=True).state_dict()
        model = segzoo.create_model(name, num_classes=4, down_expansion=ratios)
        model.load_state_dict(segzoo.convert(state, model), strict=True)
        if size != "S":
            with refused(segzoo.SegzooError):
                segzoo.convert(state, segzoo.create_model(name, num_classes=4))


@pytest.mark.parametrize("grn", [False, True])
def test_monais_ratios_and_responses_compute_the_same(grn):
    from monai.networks.nets import MedNeXt as Ported

    torch.manual_seed(0)
    ported = Ported(
        spatial_dims=3,
        init_filters=4,
        in_channels=1,
        out_channels=3,
        encoder_expansion_ratio=(2, 3, 4, 5),
        bottleneck_expansion_ratio=4,
        decoder_expansion_ratio=(5, 4, 3, 2),
        kernel_size=5,
        use_residual_connection=True,
        blocks_down=(1, 2, 1, 1),
        blocks_bottleneck=1,
        blocks_up=(1, 1, 2, 1),
        global_resp_norm=grn,
    ).eval()
    for key, parameter in ported.named_parameters():
        if "global_resp" in key:
            torch.nn.init.normal_(parameter)
    model = segzoo.MedNeXt(
        num_classes=3,
        width=4,
        expansion=(2, 3, 4, 5, 4, 5, 4, 3, 2),
        down_expansion=(2, 3, 4, 5),
        depths=(1, 2, 1, 1, 1, 1, 1, 2, 1),
        kernel_size=5,
        grn=grn,
    ).eval()
    model.load_state_dict(segzoo.convert(ported.state_dict(), model), strict=True)
    image = torch.randn(1, 1, 32, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), ported(image), rtol=1e-4, atol=1e-4)


def test_a_mednexts_head_of_another_rank_is_refused(refused):
    with refused(segzoo.SegzooError):
        segzoo.convert({"out_0.conv_out.weight": torch.ones(3)}, segzoo.create_model("mednext", width=4))


def test_another_mednext_is_refused(refused):
    state = segzoo.create_model("mednext", width=4).state_dict()
    with refused(segzoo.SegzooError):
        segzoo.convert({"stem.weight": state["stem.weight"]}, segzoo.create_model("mednext", width=4))


def test_an_lv_unet_whose_file_does_not_say_how_far_it_is_warns():
    model = segzoo.create_model("lv_unet")
    original = {name: value for name, value in model.state_dict().items() if name != "deep_training_lambda"}
    with pytest.warns(UserWarning, match=r"λ stays 0.*deep_training_lambda\.fill_\(1\)"):
        converted = segzoo.convert(original, model)
    assert converted["deep_training_lambda"] == 0


def test_a_mednext_without_residual_connections_is_another_network(refused):
    """As the original is with ``do_res=False``: it adds nothing, and needs no convolution that brings it to size."""
    model = segzoo.create_model("mednext_s_k3", width=2)
    state = {f"{name}": value for name, value in model.state_dict().items() if ".residual." not in name}
    with refused(segzoo.SegzooError):
        segzoo.convert(state, model)
