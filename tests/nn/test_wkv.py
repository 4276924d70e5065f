import types

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from segzoo.errors import SegzooError
from segzoo.nn import bi_wkv, wkv, wkv_blocks

NAMES = ("y", "w", "u", "k", "v")
REGIMES = ("init", "zeros", "big_k", "huge_k", "big_w", "neg_w", "w2_per_token", "u_extreme", "big_all")


def by_softmax(w, u, k, v):
    """The formula as it is written, T x T."""
    token = torch.arange(k.shape[1])
    distance = (token[:, None] - token).abs()
    exponent = torch.where(distance[..., None] == 0, k[:, None] + u, k[:, None] - w * (distance[..., None] - 1))
    return (exponent.softmax(2) * v[:, None]).sum(2)


def with_gradients(function, inputs, grad):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    return dict(zip(NAMES, (y.detach(), *torch.autograd.grad(y, inputs, grad)), strict=True))


def assert_close(actual, truth, inputs, grad, scale=1.0):
    """Compare at the tolerances of golden/README.md, times scale."""
    k, v = inputs[2:]
    bound = 2e-6 * grad.abs().max() * v.abs().max()
    for name, value in actual.items():
        if name == "y":
            tolerance = 1e-5 * v.abs().max()
        else:
            tolerance = 1e-4 * truth[name].abs().max() + bound * (k.shape[1] if name == "w" else 1)
        error = (value.double() - truth[name].double()).abs().max()
        assert error <= scale * tolerance, f"{name}: off by {error:.2g}, allowed {scale * tolerance:.2g}"


def random_inputs(batch, tokens, channels, *, w=3.0, u=1.0, k=1.0, v=1.0, seed=0, dtype=torch.float32):
    """w, u, k, v and a gradient of y; w and u are what an architecture gives before the division by T."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [scale / tokens * torch.randn(channels, generator=generator, dtype=dtype) for scale in (w, u)]
    k, v, grad = (
        scale * torch.randn(batch, tokens, channels, generator=generator, dtype=dtype) for scale in (k, v, 1.0)
    )
    return [*vectors, k, v], grad


@pytest.fixture(scope="module")
def golden(golden_file):
    return load_file(golden_file("biwkv.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("tokens", [1, 7, 64, 196, 1024, 4096])
def test_the_reference_values_and_gradients_come_out(golden, tokens, regime, dtype):
    case = {name: golden[f"T{tokens}/{regime}/{name}"].to(dtype) for name in "wukvy"}
    inputs = [case[name] for name in "wukv"]
    if tokens <= 196:  # gradients are stored for these
        case |= {f"g{name}": golden[f"T{tokens}/{regime}/g{name}"].to(dtype) for name in "ywukv"}
        truth = {"y": case["y"]} | {name: case[f"g{name}"] for name in "wukv"}
        actual, grad = with_gradients(bi_wkv, inputs, case["gy"]), case["gy"]
    else:
        actual, truth, grad = {"y": bi_wkv(*inputs)}, case, torch.zeros(1)
    assert actual["y"].dtype == dtype
    # The errors seen are below 1e-1 of the tolerances in float32, below 1e-8 of them in float64.
    assert_close(actual, truth, inputs, grad, scale=0.5 if dtype == torch.float32 else 1e-5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 3)),
    *(st.floats(low, high).map(lambda power: 10.0**power) for low, high in ((-3, 5), (-3, 5), (-2, 4), (-3, 3))),
    st.integers(0, 2**30),
    st.sampled_from([torch.float32, torch.float64]),
)
@example((1, 12, 2), 0.0, 5e3, 300.0, 1.0, 1, torch.float32)  # the own token is turned down, wherever it towers
@example((1, 12, 2), 5e3, 0.0, 300.0, 1.0, 2, torch.float32)  # decays so steep that each token is a chunk
@example((1, 12, 2), 5e3, 5e3, 300.0, 1.0, 3, torch.float64)
def test_any_magnitudes_give_what_the_full_softmax_gives(shape, w, u, k, v, seed, dtype):
    inputs, grad = random_inputs(*shape, w=w, u=u, k=k, v=v, seed=seed, dtype=dtype)
    truth = with_gradients(by_softmax, [x.double() for x in inputs], grad.double())
    assert_close(with_gradients(bi_wkv, inputs, grad), truth, inputs, grad)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 5, 9])
def test_the_hand_written_gradient_is_that_of_the_function(tokens, chunks):
    inputs, _ = random_inputs(2, tokens, 2, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: wkv._BiWKV.apply(*x, chunks), inputs)


@pytest.mark.parametrize("tokens", [2, 5, 35])
def test_so_is_that_of_the_function_in_blocks(tokens):
    inputs, _ = random_inputs(2, tokens, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(wkv_blocks.BiWKVInBlocks.apply, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize(("batch", "tokens"), [(2, 2), (2, 31), (2, 32), (2, 33), (3, 70), (5, 1100)])
@pytest.mark.parametrize("w", [3.0, -20.0])
def test_blocks_of_tokens_change_nothing(monkeypatch, batch, tokens, w):
    monkeypatch.setattr(wkv_blocks, "TOKENS", 2 * tokens)  # so that images are taken two at a time
    inputs, grad = random_inputs(batch, tokens, 3, w=w, k=5.0, dtype=torch.float64)
    plain = with_gradients(lambda *x: wkv._BiWKV.apply(*x, 1), inputs, grad)
    in_blocks = with_gradients(wkv_blocks.BiWKVInBlocks.apply, inputs, grad)
    for name in NAMES:
        torch.testing.assert_close(in_blocks[name], plain[name], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("chunks", [2, 4, 7, 30])
def test_chunks_change_nothing(chunks):
    inputs, grad = random_inputs(2, 30, 3, w=20.0, k=5.0, dtype=torch.float64)
    whole = with_gradients(lambda *x: wkv._BiWKV.apply(*x, 1), inputs, grad)
    cut = with_gradients(lambda *x: wkv._BiWKV.apply(*x, chunks), inputs, grad)
    for name in NAMES:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-11, atol=1e-12)


def test_sane_decays_are_one_pass_in_the_given_precision():
    (w, u, _, _), _ = random_inputs(1, 196, 192)
    assert wkv._plan(w, u, 196, torch.float32) == (torch.float32, 1)
    assert wkv._plan(torch.nan * w, u, 196, torch.float32) == (torch.float32, 1)


def test_wild_decays_are_computed_in_float64_and_cut_only_as_far_as_needed():
    (w, u, _, _), _ = random_inputs(1, 196, 192)
    assert wkv._plan(0 * w + 1, u, 196, torch.float32) == (torch.float64, 1)
    assert wkv._plan(0 * w - 5, u, 196, torch.float32) == (torch.float64, 4)
    assert wkv._plan(0 * w + 1000, u, 196, torch.float32) == (torch.float64, 196)
    assert wkv._plan(0 * w, u - 1000, 196, torch.float32) == (torch.float64, 196)


def test_one_token_is_its_own_value():
    (w, u, k, v), _ = random_inputs(2, 1, 4)
    torch.testing.assert_close(bi_wkv(w, u, k, v), v)


@pytest.mark.parametrize("halved", ["kv", "wukv"])
def test_half_precision_is_computed_in_float32_and_returned_as_it_came(halved):
    inputs, grad = random_inputs(2, 50, 4)
    half = [x.bfloat16() if name in halved else x for name, x in zip("wukv", inputs, strict=True)]
    half_grad = grad.bfloat16()
    actual = with_gradients(bi_wkv, half, half_grad)
    expected = with_gradients(bi_wkv, [x.float() for x in half], half_grad.float())
    for name, value in actual.items():
        assert value.dtype == (torch.bfloat16 if name in "y" + halved else torch.float32)
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=0, atol=0)


def test_autocast_changes_nothing():
    inputs, grad = random_inputs(2, 50, 4)
    expected = with_gradients(bi_wkv, inputs, grad)
    with torch.autocast("cpu", torch.bfloat16):
        actual = with_gradients(bi_wkv, inputs, grad)
    for name in NAMES:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["w", "u", "k", "v"])
def test_nan_goes_through_to_the_output(name):
    inputs, _ = random_inputs(1, 9, 2)
    inputs["wukv".index(name)].fill_(torch.nan)
    assert bi_wkv(*inputs).isnan().all()


@pytest.mark.parametrize("wrong", ["w", "u", "k", "v", "rank"])
def test_shapes_that_do_not_fit_are_refused(wrong, refused):
    inputs = dict(zip("wukv", random_inputs(2, 5, 4)[0], strict=True))
    if wrong == "rank":
        inputs |= {name: inputs[name][0] for name in "kv"}
    else:
        inputs[wrong] = inputs[wrong][..., :3]
    with refused(SegzooError):
        bi_wkv(**inputs)


@pytest.mark.parametrize("tokens", [1, 2, 3, 64, 257])
def test_doubling_is_a_cumulative_sum(tokens):
    x = torch.randn(2, tokens, 3, dtype=torch.float64)
    torch.testing.assert_close(wkv._cumsum_by_doubling(x), x.cumsum(1))


def test_the_deterministic_path_gives_the_same(monkeypatch):
    inputs, grad = random_inputs(2, 77, 4, w=200.0)
    expected = with_gradients(bi_wkv, inputs, grad)
    monkeypatch.setattr(wkv, "_cumsum", wkv._cumsum_by_doubling)
    assert_close(with_gradients(bi_wkv, inputs, grad), expected, inputs, grad, scale=0.1)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_deterministic_path_is_taken_on_cuda(deterministic, monkeypatch):
    monkeypatch.setattr(wkv, "_cumsum_by_doubling", lambda x: "doubling")

    def tensor(is_cuda):
        return types.SimpleNamespace(is_cuda=is_cuda, cumsum=lambda dim: "cumsum")

    assert [wkv._cumsum(tensor(True)), wkv._cumsum(tensor(False))] == ["doubling", "cumsum"]
    torch.use_deterministic_algorithms(False)
    assert wkv._cumsum(tensor(True)) == "cumsum"


def test_the_deterministic_path_is_taken_in_compiled_graphs_too(monkeypatch):
    inputs, grad = random_inputs(2, 77, 4)
    expected = with_gradients(bi_wkv, inputs, grad)
    monkeypatch.setattr(wkv, "_is_cumsum_refused", lambda x: True)
    operations = []

    def backend(graph, _):
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    with torch.no_grad():
        torch.compile(bi_wkv, fullgraph=True, backend=backend)(*inputs)
    assert operations
    assert not any("cumsum" in operation for operation in operations)
    compiled = torch.compile(bi_wkv, fullgraph=True, backend="aot_eager")
    assert_close(with_gradients(compiled, inputs, grad), expected, inputs, grad, scale=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("decay", [3.0, 1000.0])
def test_deterministic_training_runs_on_cuda(deterministic, decay):
    inputs, grad = random_inputs(2, 300, 32, w=decay)
    actual = with_gradients(bi_wkv, [x.cuda() for x in inputs], grad.cuda())
    actual = {name: value.cpu() for name, value in actual.items()}
    assert_close(actual, with_gradients(bi_wkv, inputs, grad), inputs, grad)


def test_it_compiles_into_one_graph_for_any_number_of_tokens():
    # Without Inductor, whose C++ compiler takes a minute and is not ours to test.
    compiled = torch.compile(bi_wkv, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (30, 9):
        inputs, grad = random_inputs(2, tokens, 4)
        expected = with_gradients(bi_wkv, inputs, grad)
        assert_close(with_gradients(compiled, inputs, grad), expected, inputs, grad, scale=0.1)


@pytest.mark.parametrize(("tokens", "decay"), [(1, 10), (2, -10), (17, 100), (17, -100), (300, 300), (300, -300)])
def test_its_traced_form_computes_the_formula(monkeypatch, tokens, decay):
    inputs, grad = random_inputs(2, tokens, 5)
    inputs[0] = torch.linspace(decay / 2, decay, 5) / tokens
    truth = with_gradients(by_softmax, [x.double() for x in inputs], grad.double())
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    assert_close(with_gradients(bi_wkv, inputs, grad), truth, inputs, grad)


class _Mixer(torch.nn.Module):
    """A model around bi_wkv: w and u are divided by the number of tokens at hand."""

    def __init__(self):
        super().__init__()
        (w, u, _, _), _ = random_inputs(1, 1, 4, w=10.0)
        self.decay, self.first = torch.nn.Parameter(w), torch.nn.Parameter(u)

    def forward(self, k, v):
        tokens = k.shape[1]
        return bi_wkv(self.decay / tokens, self.first / tokens, k, v)


def dynamic_shapes():
    tokens = torch.export.Dim("tokens", min=1)
    return {"k": {1: tokens}, "v": {1: tokens}}


def test_it_exports_for_any_number_of_tokens():
    model = _Mixer().eval()
    exported = torch.export.export(model, tuple(torch.randn(2, 1, 30, 4)), dynamic_shapes=dynamic_shapes()).module()
    for tokens in (1, 2, 4, 6, 30, 101):
        k, v = torch.randn(2, 1, tokens, 4)
        torch.testing.assert_close(exported(k, v), model(k, v))
    operations = [node for node in exported.graph.nodes if node.op == "call_function"]
    assert len(operations) < 150  # a network has dozens of Bi-WKV, and exporters take their time by the operation


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_runs_any_number_of_tokens_without_custom_operators(tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = _Mixer().eval(), tmp_path / "mixer.onnx"
    inputs = tuple(torch.randn(2, 1, 30, 4))
    torch.onnx.export(model, inputs, path, dynamo=True, dynamic_shapes=dynamic_shapes(), verbose=False)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = runtime.InferenceSession(path)
    for tokens in (1, 2, 4, 6, 30, 101):
        k, v = torch.randn(2, 1, tokens, 4)
        (y,) = session.run(None, dict(zip(("k", "v"), (k.numpy(), v.numpy()), strict=True)))
        torch.testing.assert_close(torch.from_numpy(y), model(k, v).detach())


def test_meta_tensors_keep_their_shape():
    inputs = [x.to("meta") for x in random_inputs(2, 30, 4)[0]]
    assert bi_wkv(*inputs).shape == (2, 30, 4)
