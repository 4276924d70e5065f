"""The deployed form that model.predict keeps: used while the model stays as it is, and never after a change."""

import copy
import io
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import segzoo
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.torch_backend import TorchBackend

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)


def small() -> segzoo.CMUNeXt:
    torch.manual_seed(0)
    model = segzoo.CMUNeXt(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1, 1)).eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 48))
    return model


def anew(model) -> np.ndarray:
    """Probabilities by a form that is made for them."""
    return Pipeline(TorchBackend(model.deploy()))(IMAGE).probabilities


def train_a_step(model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 32, 32)).mean().backward()
    optimizer.step()


def train_a_fused_step(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.randn(2, 3, 32, 32)).mean().backward()
    optimizer.step()


def see_a_batch(model) -> None:
    with torch.no_grad():
        model.train()(3 * torch.randn(2, 3, 32, 32))
    model.eval()


def scale_in_place(model) -> None:
    with torch.no_grad():
        model.head.weight.mul_(3)


def scale_past_the_counter(model) -> None:
    model.head.weight.data.mul_(3)


def write_by_numpy(model) -> None:
    model.stem[0].weight.detach().numpy()[:] *= 2


def turn_in_place(model) -> None:
    """Channels that change places leave every plain sum as it was."""
    model.encoder[0].widen[0].weight.data.copy_(model.encoder[0].widen[0].weight.data.flip(0))


def change_one_bit(model) -> None:
    model.head.bias.detach().numpy().view(np.int32)[0] ^= 1 << 22


def other_weights(seed: int):
    def load(model, **options) -> None:
        torch.manual_seed(seed)
        state = segzoo.CMUNeXt(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1, 1)).state_dict()
        model.load_state_dict(state, **options)

    return load


def assign_weights(model) -> None:
    other_weights(2)(model, assign=True)


def round_to_half_and_back(model) -> None:
    model.half()
    model.float()


def round_a_part(model) -> None:
    model.encoder.bfloat16().float()


def replace_parameter(model) -> None:
    model.head.bias = nn.Parameter(model.head.bias.detach() + 1)


def replace_data(model) -> None:
    model.head.bias.data = model.head.bias.data + 1


def turn_data(model) -> None:
    """The same memory, read in another order."""
    conv = model.encoder[0].widen[0]
    conv.weight.data = conv.weight.data.transpose(2, 3)


def replace_buffer(model) -> None:
    model.stem[1].running_mean = model.stem[1].running_mean + 1


def replace_module(model) -> None:
    torch.manual_seed(5)
    model.decoder[-1].upsample = nn.Upsample(scale_factor=2, mode="nearest")


def swap_modules(model) -> None:
    model.encoder[3], model.encoder[4] = model.encoder[4], model.encoder[3]


def change_attribute(model) -> None:
    model.stem[1].eps = 0.5


def change_attribute_twice(model) -> None:
    for eps in (0.25, 0.5):
        model.stem[1].eps = eps


def parametrize_weight(model) -> None:
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    parametrize.register_parametrization(model.stem[0], "weight", Double())


def norm_spectrally(model) -> None:
    nn.utils.parametrizations.spectral_norm(model.encoder[1].widen[0])


def hook(model) -> None:
    model.head.register_forward_hook(lambda module, inputs, output: output + 1)


def hook_before(model) -> None:
    model.head.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def other_contract(model) -> None:
    model.preprocessing = replace(model.preprocessing, mean=(0.1, 0.2, 0.3))


CHANGES = [
    train_a_step,
    train_a_fused_step,
    see_a_batch,
    scale_in_place,
    scale_past_the_counter,
    write_by_numpy,
    turn_in_place,
    change_one_bit,
    other_weights(1),
    assign_weights,
    torch.nn.Module.half,
    torch.nn.Module.double,
    round_to_half_and_back,
    round_a_part,
    replace_parameter,
    replace_data,
    turn_data,
    replace_buffer,
    replace_module,
    swap_modules,
    change_attribute,
    change_attribute_twice,
    parametrize_weight,
    norm_spectrally,
    hook,
    hook_before,
    other_contract,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_change_is_missed(change):
    model = small()
    before = model.predict(IMAGE).probabilities
    np.testing.assert_array_equal(model.predict(IMAGE).probabilities, before)
    change(model)
    changed = model.predict(IMAGE).probabilities
    assert (changed != before).any()
    np.testing.assert_array_equal(changed, anew(model))
    np.testing.assert_array_equal(model.predict(IMAGE).probabilities, changed)


def test_what_a_hook_keeps_may_change():
    """A hook's own state is not the model's, so nothing is kept while there is one."""

    class Shift:
        by = 0.0

        def __call__(self, module, inputs, output):
            return output + self.by

    model, shift = small(), Shift()
    before = model.predict(IMAGE).probabilities
    handle = model.head.register_forward_hook(shift)
    np.testing.assert_array_equal(model.predict(IMAGE).probabilities, before)
    shift.by = 1.0
    assert (model.predict(IMAGE).probabilities > before).all()
    handle.remove()
    np.testing.assert_array_equal(model.predict(IMAGE).probabilities, before)


class Listed(segzoo.SegmentationModule):
    """Network that computes by attributes which are no parameters."""

    def __init__(self) -> None:
        super().__init__(in_channels=3)
        self.layer = nn.Conv2d(3, 1, 1)
        self.shifts, self.by_name, self.table = [0.0], {"scale": 1.0}, torch.ones(1)

    def compute_logits(self, x):
        return self.layer(x) * self.by_name["scale"] * self.table + sum(self.shifts)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.shifts.append(1.0),
        lambda model: model.shifts.__setitem__(0, 2.0),
        lambda model: model.by_name.update(scale=2.0),
        lambda model: model.table.mul_(2),
        lambda model: setattr(model, "table", torch.zeros(1)),
    ],
    ids=["list grows", "list changes", "dict", "tensor in place", "another tensor"],
)
def test_attributes_that_a_network_computes_by_are_seen(change):
    model = Listed().eval()
    before = model.predict(IMAGE).probabilities
    change(model)
    assert (model.predict(IMAGE).probabilities != before).any()
    np.testing.assert_array_equal(model.predict(IMAGE).probabilities, anew(model))


@pytest.mark.parametrize("build", [small, lambda: segzoo.from_pretrained("lv-unet-busi")], ids=["cmunext", "lv_unet"])
def test_the_form_is_made_once(build, monkeypatch):
    model, made = build(), []
    deploy = model.deploy
    monkeypatch.setattr(type(model), "deploy", lambda self: (made.append(self), deploy())[1])
    masks = [model.predict(IMAGE) for _ in range(3)]
    assert len(made) == 1
    np.testing.assert_array_equal(masks[0].probabilities, masks[2].probabilities)
    with torch.no_grad():
        model(torch.zeros(1, 3, 128, 128))  # which changes nothing
    model.predict(IMAGE)
    assert len(made) == 1


def test_copies_and_files_of_a_model_leave_the_form_out(tmp_path):
    model = small()
    size = len(pickle.dumps(model))
    state = {name: value.shape for name, value in model.state_dict().items()}
    form = model.deployed_form()
    assert model.deployed_form() is form
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), form):
        assert copied.deployed_form() not in (form, model)
    assert len(pickle.dumps(model)) == size
    assert {name: value.shape for name, value in model.state_dict().items()} == state
    assert sum(1 for _ in model.modules()) == sum(1 for _ in small().modules())
    saved = io.BytesIO()
    torch.save(model, saved)
    assert len(saved.getvalue()) < 1.1 * size + 100_000
    model = segzoo.create_model("cmunext_s").eval()
    model.predict(IMAGE)
    folder = model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(segzoo.from_pretrained(folder).predict(IMAGE).mask, model.predict(IMAGE).mask)


def test_a_shallow_copy_with_another_part_has_a_form_of_its_own():
    model = small()
    before = model.predict(IMAGE).probabilities
    other = copy.copy(model)
    other.preprocessing = replace(model.preprocessing, mean=(0.1, 0.2, 0.3))
    assert (other.predict(IMAGE).probabilities != before).any()
    np.testing.assert_array_equal(model.predict(IMAGE).probabilities, before)


@pytest.mark.parametrize("let_go", [lambda m: m.train(), lambda m: m.to(torch.float64), lambda m: m.cpu()])
def test_the_form_goes_where_it_would_only_take_memory(let_go):
    model = small()
    form = weakref.ref(model.deployed_form())
    assert form() is not None
    let_go(model)
    assert form() is None


def test_the_form_goes_with_its_model():
    model = small()
    form, whole = weakref.ref(model.deployed_form()), weakref.ref(model)
    del model
    assert whole() is None
    assert form() is None


def test_a_model_that_cannot_be_fused_is_run_as_it_is():
    model = segzoo.create_model("lv_unet").train()  # λ = 0
    first = model.predict(IMAGE).probabilities
    assert model.training
    with torch.no_grad():
        model.head.bias.add_(1)
    assert (model.predict(IMAGE).probabilities > first).all()
