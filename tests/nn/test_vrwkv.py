"""Vision-RWKV against the original's own outputs, and by its definition."""

import json

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor

import segzoo
from segzoo.nn import blend
from segzoo.nn.vrwkv import DropPath, VisionRWKV, VRWKVBlock, q_shift, resize_positions

VARIANTS = ("small_like", "large_like", "adapter_tiny_like", "odd_channels", "shift2", "noshift", "gray")
PLAIN = {"vrwkv_tiny": 5_962_176, "vrwkv_small": 23_435_136, "vrwkv_base": 92_876_544, "vrwkv_large_192": 328_659_968}
TOLERANCE = 2e-5  # of the largest value, as the golden data's README asks


@pytest.fixture(scope="module")
def golden(read_golden):
    return read_golden("vrwkv_variants")


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def build(golden, name: str) -> VisionRWKV:
    return VisionRWKV(**json.loads(golden[1][name])).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_computes_what_the_original_does(golden, name):
    tensors, _ = golden
    model = build(golden, name)
    model.load_state_dict(segzoo.convert(part(tensors, f"{name}/params/"), model), strict=True)
    inputs = part(tensors, f"{name}/input/")
    assert len(inputs) == 3
    for tag, image in inputs.items():
        with torch.inference_mode():
            outputs = model(image)
        expected = part(tensors, f"{name}/output/{tag}/")
        assert len(outputs) == len(expected)
        for layer, output in enumerate(outputs):
            reference = expected[f"layer{layer}"]
            assert (output - reference).abs().max() <= TOLERANCE * reference.abs().max(), (tag, layer)


@pytest.mark.parametrize("name", VARIANTS)
def test_starts_from_the_originals_values(golden, name):
    state = build(golden, name).state_dict()
    expected = part(golden[0], f"{name}/init/")
    assert expected.keys() == {key for key in state if ".spatial_" in key}
    for key, value in expected.items():
        assert (state[key] - value).abs().max() <= TOLERANCE * value.abs().max(), key


@pytest.mark.parametrize("name", PLAIN)
def test_names_shapes_and_number_of_parameters_are_the_originals(shared, name):
    facts = json.loads((shared / "golden" / "vrwkv_keys.json").read_text())[name]
    with torch.device("meta"):
        model = VisionRWKV(**facts["config"])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == facts["shapes"]
    assert sum(parameter.numel() for parameter in model.parameters()) == PLAIN[name]


# ---- q-shift


@pytest.mark.parametrize(
    "case", ["C10_H4_W2_s1_g0.25", "C16_H5_W5_s2_g0.125", "C7_H1_W6_s1_g0.25", "C8_H3_W5_s1_g0.25"]
)
def test_q_shift_is_the_originals(golden, case):
    _, height, width, pixels, gamma = (float(word.lstrip("CHWsg")) for word in case.split("_"))
    tensors = part(golden[0], f"q_shift/{case}/")
    shifted = q_shift(tensors["x"], (int(height), int(width)), int(pixels), gamma)
    assert torch.equal(shifted, tensors["y"])


@pytest.mark.parametrize(("height", "width", "pixels"), [(1, 1, 1), (2, 3, 1), (4, 3, 3), (2, 2, 5)])
def test_q_shift_by_its_definition(height, width, pixels):
    x = torch.randn(1, height * width, 10)
    expected = torch.zeros(height, width, 10)
    image = x.view(height, width, 10)
    neighbours = [(0, -pixels), (0, pixels), (-pixels, 0), (pixels, 0)]  # left, right, above, below
    for channel in range(10):  # four groups of two, and two that stay
        down, right = [*neighbours, (0, 0)][channel // 2]
        for row in range(height):
            for column in range(width):
                if 0 <= row + down < height and 0 <= column + right < width:
                    expected[row, column, channel] = image[row + down, column + right, channel]
    assert torch.equal(q_shift(x, (height, width), pixels, gamma=0.2).view_as(expected), expected)


# ---- sizes, positions, options


@pytest.mark.parametrize(("grid", "pixels"), [((3, 4), 1), ((1, 1), 1), ((2, 5), 3)])
def test_blends_are_interpolated_shifts(monkeypatch, grid, pixels):
    monkeypatch.setattr(blend, "VALUES", 2 * grid[0] * grid[1] * 11)  # so that images are taken two at a time
    x, *mixes = torch.randn(3, grid[0] * grid[1], 11, dtype=torch.float64), *torch.rand(3, 1, 1, 11).double().unbind()
    inputs = [tensor.requires_grad_() for tensor in (x, *mixes)]
    blends = blend.Blend.apply(x, grid, pixels, 0.2, *mixes)
    expected = [torch.lerp(q_shift(x, grid, pixels, 0.2), x, mix) for mix in mixes]
    slopes = torch.randn(3, *x.shape, dtype=torch.float64).unbind()
    gradients, expected_gradients = (torch.autograd.grad(some, inputs, slopes) for some in (blends, expected))
    for one, other in zip((*blends, *gradients), (*expected, *expected_gradients), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lambda *some: blend.Blend.apply(some[0], grid, pixels, 0.2, *some[1:]), inputs)


def test_the_gradient_of_the_squared_relu_is_that_of_its_formula():
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blend.squared_relu, [x])
    assert torch.equal(blend.squared_relu(x), x.relu().square())
    assert torch.equal(blend.squared_relu(x.detach().clone()), x.detach().relu().square())


@pytest.mark.parametrize("size", [(7, 5), (16, 16), (50, 70)])
def test_any_size_is_filled_up_to_whole_patches(size):
    model = VisionRWKV(img_size=32, embed_dims=16, depth=3, out_indices=(0, -1)).eval()
    image = torch.randn(2, 3, *size)
    height, width = (-(-side // 16) for side in size)
    filled = F.pad(image, (0, 16 * width - size[1], 0, 16 * height - size[0]))
    with torch.inference_mode():
        outputs = model(image)
        assert [output.shape for output in outputs] == [(2, 16, height, width)] * 2
        assert all(torch.equal(one, other) for one, other in zip(outputs, model(filled), strict=True))


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 3)), ((14, 14), (8, 16)), ((2, 2), (1, 9))])
def test_positions_are_interpolated_bicubically(old, new):
    positions = torch.randn(1, old[0] * old[1], 6)
    grid = positions.unflatten(1, old).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=new, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    with torch.autocast("cpu"):  # which must not make it coarser
        torch.testing.assert_close(resize_positions(positions, old, new), expected, rtol=1e-5, atol=1e-6)


def test_the_global_start_is_half_and_half():
    block = VRWKVBlock(8, 0, 4, init_mode="global")
    assert block.att.spatial_decay.eq(0).all()
    assert block.att.spatial_first.eq(0).all()
    assert block.att.spatial_mix_v.eq(0.5).all()
    assert block.ffn.spatial_mix_k.eq(0.5).all()


def test_a_single_block_starts_from_finite_values():
    assert all(torch.isfinite(value).all() for value in VRWKVBlock(8, 0, 1).state_dict().values())


def test_stochastic_depth_grows_with_the_depth_and_is_for_training_alone():
    model = VisionRWKV(img_size=32, embed_dims=16, depth=3, drop_path_rate=0.5)
    assert [getattr(layer.drop_path, "drop_prob", 0) for layer in model.layers] == [0, 0.25, 0.5]
    image = torch.randn(8, 3, 32, 32)
    assert not torch.equal(model(image)[0], model(image)[0])
    model.eval()
    assert torch.equal(model(image)[0], model(image)[0])


@pytest.mark.parametrize("shape", [(8, 5, 3), (8, 3, 4, 4)])
def test_stochastic_depth_draws_what_timm_draws(shape):
    x = torch.randn(shape)
    ours, timms = ([seeded(layer(0.4), x) for _ in range(2)] for layer in (DropPath, timm.layers.DropPath))
    assert all(map(torch.equal, ours, timms))
    assert torch.equal(DropPath(0.4).eval()(x), x)


def seeded(layer: torch.nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return layer(x)
