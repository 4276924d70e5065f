"""VRWKV-Adapter against the original's own outputs, and its sampling by definition."""

import json
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

import segzoo
from segzoo.nn import deformable
from segzoo.nn.deformable import DeformableAttention, pixel_centres, sample, sample_by_gathering
from segzoo.nn.vrwkv import VisionRWKV
from segzoo.nn.vrwkv_adapter import SpatialPrior, VRWKVAdapter
from segzoo.prediction.runtimes import import_openvino

ADAPTERS = {
    "vrwkv_adapter_tiny": 8_404_592,
    "vrwkv_adapter_small": 29_264_528,
    "vrwkv_adapter_base": 106_555_616,
    "vrwkv_adapter_large_192": 351_894_720,
}
TOLERANCE = 2e-5  # of the largest value, as the golden data's README asks
SMALL = {"img_size": 32, "embed_dims": 24, "depth": 4, "interaction_indexes": [(0, 0), (1, 1), (2, 2), (3, 3)]}


@pytest.fixture(scope="module")
def golden(read_golden):
    return read_golden("vrwkv_adapter_small")


@pytest.mark.parametrize("way", ["in bags", "grid_sample", "gathering"])
@pytest.mark.parametrize("name", ["tiny_like", "small_like"])
def test_computes_what_the_original_does(golden, name, way, monkeypatch):
    if way != "in bags":  # but as for gradients
        monkeypatch.setattr(deformable, "needs_gradient", lambda *tensors: True)
    if way == "gathering":  # what deterministic training on GPUs uses
        monkeypatch.setattr(deformable, "sample", sample_by_gathering)
    tensors, configurations = golden
    config = json.loads(configurations[name])
    assert config.pop("patch_size") == 16  # the only one that fits the pyramid
    model = VRWKVAdapter(**config).eval()
    params = {
        key.removeprefix(f"{name}/params/"): value
        for key, value in tensors.items()
        if key.startswith(f"{name}/params/")
    }
    model.load_state_dict(segzoo.convert(params, model), strict=True)
    for tag in ("64x64", "128x96"):
        with torch.inference_mode():
            outputs = model(tensors[f"{name}/input/{tag}"])
        for level, output in enumerate(outputs, start=1):
            reference = tensors[f"{name}/output/{tag}/f{level}"]
            assert (output - reference).abs().max() <= TOLERANCE * reference.abs().max(), (tag, level)


@pytest.mark.parametrize("name", ADAPTERS)
def test_names_shapes_and_number_of_parameters_are_the_originals(shared, name):
    facts = json.loads((shared / "golden" / "vrwkv_keys.json").read_text())[name]
    with torch.device("meta"):
        model = VRWKVAdapter(**facts["config"])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == facts["shapes"]
    assert sum(parameter.numel() for parameter in model.parameters()) == ADAPTERS[name]


def test_at_first_the_trunk_is_the_plain_encoder():
    """The injectors start at zero, so that pretrained weights begin as what they were."""
    adapter = VRWKVAdapter(**SMALL).eval()
    plain = VisionRWKV(img_size=32, embed_dims=24, depth=4, init_values=1, final_norm=False, out_indices=(-1,)).eval()
    plain.load_state_dict({key: adapter.state_dict()[key] for key in plain.state_dict()})
    trunk: list[Tensor] = []
    adapter.layers[3].register_forward_hook(lambda module, inputs, output: trunk.append(output))
    image = torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        adapter(image)
        assert torch.equal(trunk[0], plain(image)[0].flatten(2).transpose(1, 2))


def test_points_are_read_between_pixels_and_are_zero_outside():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[0.5 / 3, 0.25], [1.0 / 3, 0.25], [0.5, 0.5], [0.0, 0.25], [2.0, 0.5]])
    expected = torch.tensor([0.0, 0.5, 2.5, 0.0, 0.0])  # the fourth: half of pixel 0, half of nothing
    for read in (sample, sample_by_gathering):
        torch.testing.assert_close(read(image, points[None, :, None])[0, 0, :, 0], expected)


def test_gathering_is_the_same_as_grid_sample():
    maps = torch.randn(3, 4, 5, 7, dtype=torch.float64, requires_grad=True)
    points = (1.4 * torch.rand(3, 6, 2, 2, dtype=torch.float64) - 0.2).requires_grad_()
    weights = torch.randn(3, 4, 6, 2, dtype=torch.float64)
    results = []
    for read in (sample, sample_by_gathering):
        values = read(maps, points)
        results.append([values, *torch.autograd.grad((values * weights).sum(), [maps, points])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grids", [[(5, 7)], [(8, 6), (4, 3), (2, 1)]])
def test_reading_in_bags_is_the_same_as_grid_sample(grids):
    attention = DeformableAttention(8, heads=2, levels=len(grids), points=3, ratio=0.5).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight)  # many points lie outside
    torch.nn.init.normal_(attention.attention_weights.weight)
    query, places = torch.randn(2, 9, 8, dtype=torch.float64), torch.rand(9, 2, dtype=torch.float64)
    features = torch.randn(2, sum(height * width for height, width in grids), 8, dtype=torch.float64)
    sampled = attention(query, places, features, grids)
    with torch.no_grad():
        torch.testing.assert_close(attention(query, places, features, grids), sampled.detach())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_offsets_that_diverged_are_seen(wrong):
    attention = DeformableAttention(8, heads=2, levels=1, points=3, ratio=0.5)
    query = torch.randn(1, 4, 8)
    query[0, 1] = wrong
    with torch.no_grad():
        output = attention(query, torch.rand(4, 2), torch.randn(1, 6, 8), [(2, 3)])
    assert output.isnan().any(dim=2).tolist() == [[False, True, False, False]]


def test_the_stem_is_folded_for_deployment():
    spm = SpatialPrior(3, 4, 8)
    for layer in spm.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.normal_(layer.running_mean)
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        expected = spm.eval()(image)
        spm.fuse()
        for one, other in zip(spm(image), expected, strict=True):
            torch.testing.assert_close(one, other)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in spm.modules())


def test_attention_starts_by_looking_around():
    """Heads look to the right, up, left and down; their four points lie 1 to 4 pixels away."""
    attention = DeformableAttention(8, heads=4, levels=1, points=4, ratio=1.0)
    offsets = attention.sampling_offsets(torch.randn(1, 8)).view(4, 4, 2)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    torch.testing.assert_close(offsets, directions[:, None] * torch.arange(1, 5)[:, None])


def test_places_are_pixel_centres():
    places = pixel_centres([(1, 2), (2, 1)], torch.zeros(()))
    assert places.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


@pytest.mark.parametrize(
    "arguments",
    [
        {"deform_num_heads": 5},
        {"interaction_indexes": [(0, 1), (2, 3)]},
    ],
)
def test_numbers_that_do_not_fit_are_one_sentence(arguments, refused):
    with refused(segzoo.SegzooError):
        VRWKVAdapter(**{**SMALL, **arguments})


def test_sides_that_do_not_fit_are_one_sentence(refused):
    with refused(segzoo.SegzooError):
        VRWKVAdapter(**SMALL)(torch.randn(1, 3, 48, 32))


def test_openvino_computes_the_same_of_one_image(tmp_path):
    """Where the batch is one and fixed, OpenVINO can take the tokens of one map for those of another."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    torch.manual_seed(0)
    one_block = {"depth": 1, "interaction_indexes": [(0, -1), (0, -1), (0, -1), (0, 0)]}  # it is all about the maps
    adapter, image = VRWKVAdapter(**SMALL | one_block).eval(), torch.randn(1, 3, 64, 64)
    torch.onnx.export(adapter, (image,), tmp_path / "adapter.onnx", dynamo=True, optimize=False, verbose=False)
    compiled = (
        import_openvino().Core().compile_model(tmp_path / "adapter.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    found = compiled(image.numpy())
    with torch.inference_mode():
        for index, expected in enumerate(adapter(image)):
            assert torch.allclose(torch.from_numpy(found[index]), expected, atol=1e-4)
