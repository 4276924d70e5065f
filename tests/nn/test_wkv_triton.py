"""The kernels run in Triton's interpreter, on the CPU. They run as compiled only where there is a GPU."""

import functools
import importlib.util
import sys
import types

import pytest
import torch
from safetensors.torch import load_file
from test_wkv import NAMES, REGIMES, assert_close, by_softmax, random_inputs, with_gradients

from segzoo.nn import bi_wkv, wkv

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on what lies past the end of the tokens

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@functools.cache
def load_kernels(interpret):
    """The module once more: when it is loaded, and again when they run, Triton looks up how its kernels are to run."""
    spec = importlib.util.find_spec("segzoo.nn.wkv_triton")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def triton():
    """Imported before the environment asks for the interpreter, as Triton's own functions are to stay compiled."""
    return pytest.importorskip("triton", reason="needs Triton")


@pytest.fixture
def interpreted(triton, monkeypatch):
    """The kernels in the interpreter, which takes its time for every line, however much the line works on."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    module = load_kernels(interpret=True)
    monkeypatch.setattr(module, "_TILE", (64, 128))
    return module


@pytest.fixture
def compiled(triton, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    return load_kernels(interpret=False)


@pytest.fixture
def through_kernels(interpreted, monkeypatch):
    monkeypatch.setattr(wkv, "_kernels_for", lambda k, dtype: interpreted.bi_wkv)


def assert_like_softmax(function, inputs, grad, scale=0.5):
    truth = with_gradients(by_softmax, [x.double() for x in inputs], grad.double())
    assert_close(with_gradients(function, inputs, grad), truth, inputs, grad, scale)


@functools.cache
def golden_results(file, tokens, kernels):
    """All regimes side by side, as channels of one tensor, of which the interpreter makes as short work as of one."""
    golden = load_file(file)

    def side_by_side(name):
        return torch.cat([golden[f"T{tokens}/{regime}/{name}"].float() for regime in REGIMES], -1)

    inputs = [side_by_side(name) for name in "wukv"]
    stored = tokens <= 196  # for these, gradients are too
    results = with_gradients(kernels, inputs, side_by_side("gy")) if stored else {"y": kernels(*inputs)}
    channels = len(golden[f"T{tokens}/init/w"])
    split = {name: x.split(channels, -1) for name, x in results.items()}
    return golden, {regime: {name: split[name][i] for name in split} for i, regime in enumerate(REGIMES)}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("tokens", [1, 7, 64, 196, 1024, 4096])
def test_the_reference_values_and_gradients_come_out(golden_file, interpreted, tokens, regime):
    golden, results = golden_results(golden_file("biwkv.safetensors"), tokens, interpreted.bi_wkv)
    case = {name.split("/")[-1]: x for name, x in golden.items() if name.startswith(f"T{tokens}/{regime}/")}
    truth = {"y": case["y"]} | {name: case[f"g{name}"] for name in "wukv" if f"g{name}" in case}
    assert results[regime].keys() == truth.keys()
    # The errors seen are below 1e-1 of the tolerances, but for huge_k: 2.4e-1 for the gradient of k.
    assert_close(results[regime], truth, [case[name] for name in "wukv"], case.get("gy", torch.zeros(1)), scale=0.5)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 16, 37])
def test_any_number_of_tokens_gives_what_the_full_softmax_gives(interpreted, tokens):
    assert_like_softmax(interpreted.bi_wkv, *random_inputs(3, tokens, 5, seed=tokens))


def test_many_programs_share_the_work(interpreted, monkeypatch):
    monkeypatch.setattr(interpreted, "_TILE", (4, 2))
    assert_like_softmax(interpreted.bi_wkv, *random_inputs(3, 7, 3, w=10.0))


@pytest.mark.parametrize("k", [1e-2, 1e3])
@pytest.mark.parametrize("u", [1.0, 1e4])
@pytest.mark.parametrize("w", [1.0, 1e5])
def test_extreme_magnitudes_give_what_the_full_softmax_gives(interpreted, w, u, k):
    assert_like_softmax(interpreted.bi_wkv, *random_inputs(1, 30, 8, w=w, u=u, k=k, v=10.0), scale=1.0)


def test_tokens_far_below_the_others_change_nothing(interpreted):
    inputs, grad = random_inputs(1, 20, 4)
    inputs[2][:, 5:9] = -torch.inf
    assert_like_softmax(interpreted.bi_wkv, inputs, grad)


@pytest.mark.parametrize("name", ["w", "u", "k", "v"])
def test_nan_goes_through_to_the_output(interpreted, name):
    inputs, _ = random_inputs(1, 9, 2)
    inputs["wukv".index(name)].fill_(torch.nan)
    assert interpreted.bi_wkv(*inputs).isnan().all()


def test_strides_do_not_matter(interpreted):
    (w, u, k, v), grad = random_inputs(2, 10, 6)
    inputs = [w[::2], u[1::2], k[..., ::2], v.transpose(0, 1).contiguous().transpose(0, 1)[..., 3:]]
    assert_like_softmax(interpreted.bi_wkv, inputs, grad[..., ::2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32_and_returned_as_it_came(through_kernels, dtype):
    inputs, grad = random_inputs(2, 20, 4)
    half, half_grad = [x.to(dtype) for x in inputs], grad.to(dtype)
    actual = with_gradients(bi_wkv, half, half_grad)
    expected = with_gradients(bi_wkv, [x.float() for x in half], half_grad.float())
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name].to(dtype), rtol=0, atol=0)


def test_autocast_changes_nothing(through_kernels):
    inputs, grad = random_inputs(2, 20, 4)
    expected = with_gradients(bi_wkv, inputs, grad)
    with torch.autocast("cpu", torch.bfloat16):
        actual = with_gradients(bi_wkv, inputs, grad)
    for name in NAMES:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "compiling", "kernels"),
    [
        (True, torch.float32, False, True),
        (False, torch.float32, False, False),
        (True, torch.float64, False, False),
        (True, torch.float32, True, False),
    ],
)
def test_the_kernels_are_for_float32_on_cuda_and_not_for_tracers(monkeypatch, is_cuda, dtype, compiling, kernels):
    monkeypatch.setattr(wkv, "_kernels_on", lambda device: device)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    k = types.SimpleNamespace(is_cuda=is_cuda, device="cuda:1")
    assert wkv._kernels_for(k, dtype) == ("cuda:1" if kernels else None)


@pytest.mark.filterwarnings("error")
def test_without_triton_there_are_no_kernels_and_no_warnings(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "segzoo.nn.wkv_triton", raising=False)
    assert wkv._kernels_on.__wrapped__(torch.device("cpu")) is None


def test_where_the_kernels_do_not_run_a_warning_says_why(monkeypatch, compiled):
    monkeypatch.setitem(sys.modules, "segzoo.nn.wkv_triton", compiled)
    with pytest.warns(UserWarning, match="without its Triton kernels on cpu, and is slower: ."):
        assert wkv._kernels_on.__wrapped__(torch.device("cpu")) is None


@pytest.mark.parametrize("capability", [75, 90])
def test_the_kernels_compile_without_a_gpu(tmp_path, monkeypatch, compiled, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"ROWS": 4, "CHANNELS": 32}
    kinds = dict.fromkeys(("rows", "chunks", "length", "tokens", "channels"), "i32")  # all others are pointers

    def machine_code(kernel, constants):
        signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names} | dict.fromkeys(
            constants, "constexpr"
        )
        source = ASTSource(kernel, signature, constants)
        return compile(source, GPUTarget("cuda", capability, 32), compiled._OPTIONS).asm["cubin"]

    assert machine_code(compiled._sum_chunks, constants | {"far": None, "n": None})
    for kernel in (compiled._sum_chunks, compiled._carry, compiled._mix, compiled._mix_backward):
        assert machine_code(kernel, constants)


@needs_gpu
@pytest.mark.parametrize("w", [3.0, 1000.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 33), (3, 196, 192), (1, 5000, 40)])
def test_on_a_gpu_they_give_what_float64_gives(triton, shape, w):
    assert wkv._kernels_on(torch.device("cuda:0")) is not None
    inputs, grad = random_inputs(*shape, w=w)
    truth = with_gradients(bi_wkv, [x.double() for x in inputs], grad.double())
    on_gpu = [x.to("cuda:0") for x in inputs]
    actual = with_gradients(bi_wkv, on_gpu, grad.to("cuda:0"))
    assert_close({name: x.cpu() for name, x in actual.items()}, truth, inputs, grad)
    again = with_gradients(bi_wkv, on_gpu, grad.to("cuda:0"))
    assert all(torch.equal(actual[name], again[name]) for name in NAMES)
