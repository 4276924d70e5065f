"""MedNeXt against the original's outputs, and its options against a second implementation written from the paper's.

The second one, :func:`original`, works on state dicts of the original's names with plain functions, as the original
does (transposed convolutions, zero planes in front). It is itself checked against the original's outputs.
"""

import json
import math

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import segzoo
from segzoo.cli.command import main
from segzoo.models.mednext import MedNeXt
from segzoo.training.losses import DiceCELoss

GOLDEN = ("mednext_tiny_mixed_k3", "mednext_tiny_2d")
RATIOS = (2, 3, 1, 2, 2, 3, 1, 2, 3)
TINY = {"in_channels": 2, "num_classes": 3, "width": 4, "expansion": RATIOS, "depths": (2, 1, 1, 1, 1, 1, 1, 1, 2)}
HALVED = ((2, 2, 2),) * 4


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def like_the_golden(tensors: dict[str, Tensor], arguments: dict) -> MedNeXt:
    model = MedNeXt(
        in_channels=arguments["in_channels"],
        num_classes=arguments["n_classes"],
        width=arguments["n_channels"],
        expansion=arguments["exp_r"],
        depths=arguments["block_counts"],
        kernel_size=arguments["kernel_size"],
        spatial_dims=2 if arguments.get("dim") == "2d" else 3,
    )
    model.load_state_dict(segzoo.convert(part(tensors, "state/"), model), strict=True)
    return model


# ---- the second implementation


def conv(x: Tensor, state: dict[str, Tensor], name: str, transposed: bool = False, **options) -> Tensor:
    dims = x.ndim - 2
    function = {
        (2, False): F.conv2d,
        (3, False): F.conv3d,
        (2, True): F.conv_transpose2d,
        (3, True): F.conv_transpose3d,
    }[dims, transposed]
    return function(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)


def block(x: Tensor, state: dict[str, Tensor], name: str, norm: str, kind: str, stride=1) -> Tensor:
    dims, channels = x.ndim - 2, x.shape[1]
    kernel = state[f"{name}.conv1.weight"].shape[-1]
    h = conv(x, state, f"{name}.conv1", kind == "up", stride=stride, padding=kernel // 2, groups=channels)
    over = tuple(range(2, h.ndim)) if norm == "group" else 1
    variance, mean = torch.var_mean(h, dim=over, correction=0, keepdim=True)
    h = (h - mean) / (variance + 1e-5).sqrt()
    weight, bias = (state[f"{name}.norm.{key}"].view(1, -1, *(1,) * dims) for key in ("weight", "bias"))
    h = conv(h * weight + bias, state, f"{name}.conv2")
    h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    if f"{name}.grn_gamma" in state:
        strength = h.square().sum(tuple(range(2, h.ndim)), keepdim=True).sqrt()
        relative = strength / (strength.mean(1, keepdim=True) + 1e-6)
        h = state[f"{name}.grn_gamma"] * (h * relative) + state[f"{name}.grn_beta"] + h
    h = conv(h, state, f"{name}.conv3")
    if kind == "same":
        return x + h
    h = h + conv(x, state, f"{name}.res_conv", kind == "up", stride=stride)
    front = [side for step in reversed(stride) for side in (step - 1, 0)]
    return F.pad(h, front) if kind == "up" else h


def original(state: dict[str, Tensor], x: Tensor, norm: str = "group", strides=HALVED) -> list[Tensor]:
    def stage(x: Tensor, name: str) -> Tensor:
        index = 0
        while f"{name}.{index}.conv1.weight" in state:
            x = block(x, state, f"{name}.{index}", norm, "same")
            index += 1
        return x

    dims = x.ndim - 2
    x, skips = conv(x, state, "stem"), []
    for level in range(4):
        skips.append(stage(x, f"enc_block_{level}"))
        x = block(skips[-1], state, f"down_{level}", norm, "down", strides[level][-dims:])
    x = stage(x, "bottleneck")
    outputs = [conv(x, state, "out_4.conv_out", transposed=True)]
    for level in (3, 2, 1, 0):
        x = skips[level] + block(x, state, f"up_{level}", norm, "up", strides[level][-dims:])
        x = stage(x, f"dec_block_{level}")
        outputs.insert(0, conv(x, state, f"out_{level}.conv_out", transposed=True))
    return outputs


def originals_state(
    dims: int = 3, encoder_kernel: int = 3, kernel: int = 3, grn: bool = False, norm: str = "group"
) -> dict[str, Tensor]:
    """Random weights of TINY under the original's names, in float64; norms and responses are not at their start."""
    state: dict[str, Tensor] = {}

    def layer(name: str, *shape: int, side: int = 1, bias: int | None = None) -> None:
        state[f"{name}.weight"] = torch.randn(*shape, *(side,) * dims, dtype=torch.float64) / math.sqrt(shape[1])
        state[f"{name}.bias"] = 0.1 * torch.randn(bias or shape[0], dtype=torch.float64)

    def add_block(name: str, channels: int, out: int, ratio: int, side: int, kind: str, grn: bool) -> None:
        layer(f"{name}.conv1", channels, 1, side=side)
        state[f"{name}.norm.weight"] = 1 + 0.2 * torch.randn(channels, dtype=torch.float64)
        state[f"{name}.norm.bias"] = 0.2 * torch.randn(channels, dtype=torch.float64)
        layer(f"{name}.conv2", ratio * channels, channels)
        layer(f"{name}.conv3", out, ratio * channels)
        if grn:
            for key in ("grn_gamma", "grn_beta"):
                state[f"{name}.{key}"] = torch.randn(1, ratio * channels, *(1,) * dims, dtype=torch.float64)
        if kind == "down":
            layer(f"{name}.res_conv", out, channels)
        if kind == "up":
            layer(f"{name}.res_conv", channels, out, bias=out)

    width, depths = TINY["width"], TINY["depths"]
    layer("stem", width, TINY["in_channels"])
    for level in range(4):
        channels = width * 2**level
        for index in range(depths[level]):
            add_block(f"enc_block_{level}.{index}", channels, channels, RATIOS[level], encoder_kernel, "same", grn)
        responds = grn and level > 0  # the original forgets one
        add_block(f"down_{level}", channels, 2 * channels, RATIOS[level + 1], encoder_kernel, "down", responds)
        up, decoder = RATIOS[8 - level], depths[8 - level]
        add_block(f"up_{level}", 2 * channels, channels, up, kernel, "up", grn)
        for index in range(decoder):
            add_block(f"dec_block_{level}.{index}", channels, channels, up, kernel, "same", grn)
    for index in range(depths[4]):
        add_block(f"bottleneck.{index}", 16 * width, 16 * width, RATIOS[4], kernel, "same", grn)
    for level in range(5):
        layer(f"out_{level}.conv_out", width * 2**level, TINY["num_classes"], bias=TINY["num_classes"])
    state["dummy_tensor"] = torch.ones(1)
    return state


# ---- what it computes


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_are_the_originals_at_every_scale(golden, name):
    tensors, facts = golden(name)
    model = like_the_golden(tensors, facts["args"])
    for case in facts["inputs"]:
        outputs = model.train()(tensors[f"in/{case}"])
        assert len(outputs) == 5
        for scale, logits in enumerate(outputs):
            torch.testing.assert_close(logits, tensors[f"out/{case}/{scale}"], rtol=1e-4, atol=1e-4)
        logits = model.eval().compute_logits(tensors[f"in/{case}"])  # one: the coarse heads are for training
        torch.testing.assert_close(logits, tensors[f"out/{case}/0"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("checkpointing", [None, "block", "expansion"])
def test_gradients_are_the_originals(golden, name, checkpointing):
    tensors, facts = golden(name)
    model = like_the_golden(tensors, facts["args"]).train()
    for module in model.modules():
        if hasattr(module, "checkpointing"):
            module.checkpointing = checkpointing
    image = tensors["in/a"].requires_grad_()
    loss = sum((logits * tensors[f"grad/w/{scale}"]).mean() for scale, logits in enumerate(model(image)))
    torch.testing.assert_close(loss, tensors["grad/loss"].squeeze(), rtol=1e-4, atol=1e-4)
    loss.backward()
    torch.testing.assert_close(image.grad, tensors["grad/input"], rtol=1e-3, atol=1e-5)
    given = part(tensors, "grad/param/")
    absent = 1e30  # a gradient that no network has
    unknown = {key: torch.full_like(value, absent) for key, value in part(tensors, "state/").items()}
    expected = {  # the file leaves some large ones out
        key: value for key, value in segzoo.convert(unknown | given, model).items() if not (value == absent).any()
    }
    assert len(expected) == len(given)
    for key, parameter in model.named_parameters():
        if key in expected:
            torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_second_implementation_is_the_original_too(golden, name):
    tensors, facts = golden(name)
    for case in facts["inputs"]:
        for scale, logits in enumerate(original(part(tensors, "state/"), tensors[f"in/{case}"])):
            torch.testing.assert_close(logits, tensors[f"out/{case}/{scale}"], rtol=1e-4, atol=1e-4)


VARIANTS = {
    "kernel 5": {"kernel": 5, "encoder_kernel": 5},
    "kernels 5 and 3": {"kernel": 3, "encoder_kernel": 5},
    "kernels 3 and 5": {"kernel": 5, "encoder_kernel": 3},
    "grn": {"grn": True},
    "layer norm": {"norm": "layer"},
    "layer norm, grn, kernel 5": {"norm": "layer", "grn": True, "kernel": 5, "encoder_kernel": 5},
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_compute_what_the_second_implementation_does(variant, dims):
    options = VARIANTS[variant]
    state = originals_state(dims, **options)
    norm, grn = options.get("norm", "group"), options.get("grn", False)
    kernels = (options.get("encoder_kernel", 3), options.get("kernel", 3))
    model = MedNeXt(**TINY, spatial_dims=dims, kernel_size=kernels, norm=norm, grn=grn).double()
    model.load_state_dict(segzoo.convert(state, model))
    image = torch.randn(1, 2, *(16, 32, 16)[:dims], dtype=torch.float64)
    expected = original({key: value.requires_grad_() for key, value in state.items()}, image, norm)
    outputs = model.train()(image)
    for logits, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), expected[0], rtol=1e-9, atol=1e-9)

    weights = [torch.randn_like(logits) for logits in outputs]
    for scales in (outputs, expected):
        sum((logits * weight).sum() for logits, weight in zip(scales, weights, strict=True)).backward()
    gradients = segzoo.convert({key: value.grad for key, value in state.items() if value.grad is not None}, model)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-6, atol=1e-9, msg=key)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_strides_of_anisotropic_volumes(norm):
    strides = ((1, 2, 2), (1, 2, 2), 2, (2, 1, 2))
    spelled = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 1, 2))
    state = originals_state(norm=norm)
    model = MedNeXt(**TINY, strides=strides, norm=norm).double().train()
    model.load_state_dict(segzoo.convert(state, model))
    assert model.stride == (4, 8, 16)
    image = torch.randn(1, 2, 8, 24, 32, dtype=torch.float64)
    for logits, wanted in zip(model(image), original(state, image, norm, spelled), strict=True):
        torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
    odd = model.eval()(image[:, :, :5, :9, :31])
    padded = F.pad(image[:, :, :5, :9, :31], (0, 1, 0, 7, 0, 3), mode="replicate")
    torch.testing.assert_close(odd, model(padded)[:, :, :5, :9, :31])


def test_a_single_voxel_at_the_bottleneck_is_padded_where_the_norm_needs_it():
    for training in (False, True):
        for norm, sides in (("group", 32), ("layer", 16)):
            model = MedNeXt(width=4, norm=norm).train(training)
            seen = []
            model.stem.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].shape[2:]))
            image = torch.randn(2, 1, 16, 16, 16)
            both, one = model(image), model(image[:1])
            assert seen == [(sides,) * 3] * 2  # of any batch: a prediction depends on its own image alone
            if not training:
                torch.testing.assert_close(both[:1], one)
                assert one.shape == (1, 1, 16, 16, 16)


@pytest.mark.parametrize(("dims", "other"), [(3, 2), (2, 3)])
def test_images_of_another_rank_are_refused_in_one_sentence(dims, other, refused):
    with refused(segzoo.SegzooError):
        MedNeXt(width=4, spatial_dims=dims)(torch.randn(1, 1, *(16,) * other))


# ---- sizes

PUBLISHED = {  # 1 channel, 14 classes, 5 heads; the original's dead parameter not counted
    "mednext": 5_564_806,
    "mednext_s_k3": 5_564_806,
    "mednext_s_k5": 5_994_438,
    "mednext_b_k3": 10_540_198,
    "mednext_b_k5": 10_969_830,
    "mednext_m_k3": 17_562_854,
    "mednext_m_k5": 18_274_726,
    "mednext_l_k3": 61_793_158,
    "mednext_l_k5": 63_006_790,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    assert sorted(PUBLISHED) == segzoo.list_models("mednext*")
    with torch.device("meta"):
        model = segzoo.create_model(name, num_classes=14)
        without = segzoo.create_model(name, num_classes=14, deep_supervision=False)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == PUBLISHED[name]
    assert total - sum(parameter.numel() for parameter in without.parameters()) == 13_496


@pytest.mark.parametrize(
    "arguments",
    [
        {"spatial_dims": 1},
        {"norm": "batch"},
        {"checkpointing": "stage"},
        {"kernel_size": 4},
        {"kernel_size": (3, 5, 7)},
        {"expansion": (2, 3, 4)},
        {"depths": (0,) * 9},
        {"down_expansion": (2, 2)},
        {"strides": (2, 2, 2)},
        {"strides": (2, 2, 2, 4)},
        {"strides": ((1, 2), 2, 2, 2)},
    ],
)
def test_what_cannot_be_built_is_one_sentence(arguments, refused):
    with refused(segzoo.SegzooError) as raised:
        MedNeXt(width=4, **arguments)
    assert "\n" not in str(raised.value)


# ---- deep supervision


def test_heads_are_kept_or_dropped_by_rule(tmp_path, caplog):
    caplog.set_level("INFO", "segzoo")
    with_heads = segzoo.create_model("mednext", width=4)
    without = segzoo.create_model("mednext", width=4, deep_supervision=False)
    heads = sorted(set(with_heads.state_dict()) - set(without.state_dict()))
    assert len(heads) == 8
    started = with_heads.state_dict()[heads[0]].clone()
    with_heads.load_state_dict(without.state_dict(), strict=True)
    assert torch.equal(with_heads.state_dict()[heads[0]], started)
    assert torch.equal(with_heads.stem.weight, without.stem.weight)
    without.load_state_dict(with_heads.state_dict(), strict=True)
    with pytest.raises(RuntimeError, match="Missing key"):  # of everything else nothing may be absent
        without.load_state_dict({key: value for key, value in without.state_dict().items() if "stem" not in key})

    for model, supervised in ((with_heads, False), (without, True)):
        folder = model.save_pretrained(tmp_path / str(supervised))
        config = json.loads((folder / "config.json").read_text())
        config["model"]["arguments"]["deep_supervision"] = supervised
        (folder / "config.json").write_text(json.dumps(config))
        loaded = segzoo.from_pretrained(folder)
        report = loaded.load_report
        assert sorted(report.initialised if supervised else report.ignored) == heads
        assert heads[0] in caplog.messages[-1]
        assert len(loaded.train()(torch.randn(2, 1, 32, 16, 16))) == (5 if supervised else 2)


def test_heads_for_other_classes_are_new_at_every_scale(tmp_path):
    saved = segzoo.create_model("mednext", width=4, num_classes=3).save_pretrained(tmp_path / "saved")
    loaded = segzoo.from_pretrained(saved, num_classes=2, in_channels=4)
    assert len(loaded.load_report.initialised) == 10
    assert loaded.load_report.adapted == ["stem.weight"]
    assert [logits.shape[1] for logits in loaded.train()(torch.randn(1, 4, 32, 16, 16))] == [2] * 5


def test_deployed_models_have_no_heads_and_can_be_saved(tmp_path):
    model = segzoo.create_model("mednext", width=4).eval()
    deployed = model.deploy()
    assert not any(key.startswith("auxiliary_heads") for key in deployed.state_dict())
    loaded = segzoo.from_pretrained(deployed.save_pretrained(tmp_path / "deployed"))
    assert loaded.load_report.initialised == []
    image = torch.randn(1, 1, 20, 17, 33)
    with torch.inference_mode():
        assert torch.equal(loaded(image), model(image))


# ---- memory


def kept_for_the_gradient(model: MedNeXt, image: Tensor) -> int:
    """Values that the forward pass stores."""
    stored: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(image)
    assert len(outputs) == 5  # and still alive, so that no address was given twice
    return sum(stored.values())


@pytest.mark.parametrize("grn", [False, True])
def test_checkpointing_stores_less_and_changes_no_gradient(grn):
    image, label = torch.randn(1, 1, 16, 32, 32), torch.randint(3, (1, 16, 32, 32))
    stored, gradients = {}, {}
    for checkpointing in (None, "expansion", "block"):
        torch.manual_seed(1)
        model = MedNeXt(num_classes=3, width=4, expansion=4, grn=grn, checkpointing=checkpointing).train()
        stored[checkpointing] = kept_for_the_gradient(model, image)
        names, parameters = zip(*model.named_parameters(), strict=True)
        # the old, re-entrant kind of checkpoint cannot do this
        found = torch.autograd.grad(model.compute_loss(model(image), label), parameters)
        gradients[checkpointing] = dict(zip(names, found, strict=True))
    assert stored["block"] < stored["expansion"] < 0.6 * stored[None]
    for checkpointing in ("expansion", "block"):
        for key, gradient in gradients[checkpointing].items():
            torch.testing.assert_close(gradient, gradients[None][key], rtol=1e-5, atol=1e-7, msg=key)


@pytest.mark.parametrize("checkpointing", [None, "expansion", "block"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_distributed_training_finds_no_unused_parameter(tmp_path, checkpointing, deep_supervision):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = MedNeXt(width=4, checkpointing=checkpointing, deep_supervision=deep_supervision).train()
        parallel = DistributedDataParallel(model, find_unused_parameters=False)
        label = torch.ones(1, 16, 16, 32, dtype=torch.long)
        for _ in range(2):  # the second step stops where the first left a parameter out
            model.compute_loss(parallel(torch.randn(1, 1, 16, 16, 32)), label).backward()
    finally:
        torch.distributed.destroy_process_group()


def test_checkpointing_is_no_part_of_a_checkpoint(tmp_path):
    model = segzoo.create_model("mednext", width=4, checkpointing="expansion")
    assert "checkpointing" not in model.arguments
    assert segzoo.from_pretrained(model.save_pretrained(tmp_path / "saved")).arguments == model.arguments


# ---- the recipe


def test_loss_of_five_scales_is_the_originals(golden):
    tensors, _ = golden("nnunet_v1_dc_ce_ds_loss")
    label = tensors["target/0"][:, 0].long()
    for batch_dice in (False, True):
        model = MedNeXt(num_classes=4, width=4, loss=DiceCELoss(batch_dice=batch_dice))
        outputs = [tensors[f"logits/{scale}"].requires_grad_(True) for scale in range(5)]
        loss = model.compute_loss(outputs, label)
        expected = tensors[f"loss_batchdice{int(batch_dice)}/total"].squeeze()
        torch.testing.assert_close(loss - 1, expected, rtol=1e-5, atol=1e-5)  # theirs is CE - Dice, ours CE + 1 - Dice
        gradients = torch.autograd.grad(loss, outputs)
        for scale, gradient in enumerate(gradients):
            wanted = tensors[f"grad_batchdice{int(batch_dice)}/{scale}"]
            torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_the_published_optimizer_and_loss():
    model = MedNeXt(width=4)
    group = model.default_optimizer(model.parameters()).param_groups[0]
    assert isinstance(model.default_optimizer(model.parameters()), torch.optim.AdamW)
    assert (group["lr"], group["eps"], group["weight_decay"]) == (1e-3, 1e-4, 3e-5)
    logits, label = torch.randn(2, 1, 4, 4, 4), torch.randint(2, (2, 4, 4, 4))
    assert model.compute_loss(logits, label) == DiceCELoss()(logits, label)
    flat = MedNeXt(width=4, spatial_dims=2)
    expected = DiceCELoss(batch_dice=True)(logits[..., 0], label[..., 0])
    assert flat.compute_loss(logits[..., 0], label[..., 0]) == expected


def test_the_rate_falls_every_epoch_also_in_a_run_that_is_continued_for_longer(monkeypatch):
    model = MedNeXt(width=4)

    def run(epochs: int, count: int, earlier=None):
        monkeypatch.setattr(model, "total_epochs", lambda: epochs)
        optimizer = model.default_optimizer(model.head.parameters())
        scheduler, interval = model.default_lr_scheduler(optimizer)
        assert interval == "epoch"
        if earlier:
            optimizer.load_state_dict(earlier[0].state_dict())
            scheduler.load_state_dict(earlier[1].state_dict())
        rates = []
        for _ in range(count):
            optimizer.step()
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"] / 1e-3)
        return (optimizer, scheduler), rates

    first, rates = run(4, 4)
    assert rates == pytest.approx([(1 - epoch / 4) ** 0.9 for epoch in (1, 2, 3, 4)])
    _, rates = run(8, 4, first)
    assert rates == pytest.approx([(1 - epoch / 8) ** 0.9 for epoch in (5, 6, 7, 8)])


@pytest.mark.parametrize(
    ("asked", "norm"), [({}, 12.0), ({"gradient_clip_val": 3.0}, 3.0), ({"gradient_clip_val": 0}, None)]
)
def test_gradients_are_clipped_to_twelve_unless_the_trainer_was_told_otherwise(asked, norm, tmp_path):
    class Steep(DiceCELoss):
        def forward(self, logits: Tensor, label: Tensor) -> Tensor:
            return 1e4 * super().forward(logits, label)

    model = MedNeXt(width=4, loss=Steep(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    batch = {"image": torch.randn(1, 1, 16, 16, 32), "label": torch.ones(1, 16, 16, 32, dtype=torch.long), "id": ["a"]}
    trainer = Trainer(fast_dev_run=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **asked)
    trainer.fit(model, torch.utils.data.DataLoader([batch], batch_size=None))
    moved = (torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before).norm().item()
    assert moved == pytest.approx(norm, rel=1e-3) if norm else moved > 100


# ---- UpKern


def test_upkern_interpolates_kernels_as_the_original_does(golden):
    tensors, _ = golden("upkern_kernels")
    for dims, (given, wanted) in (
        (3, ("w3", "w3_to_5")),
        (3, ("w3", "w3_to_7")),
        (3, ("w5", "w5_to_7")),
        (2, ("w2d3", "w2d3_to_5")),
    ):
        kernels = {"width": 4, "spatial_dims": dims}
        small = MedNeXt(**kernels, kernel_size=tensors[given].shape[-1])
        large = MedNeXt(**kernels, kernel_size=tensors[wanted].shape[-1])
        small.encoder[0][1].depthwise.weight.data = tensors[given]
        segzoo.upkern(small, large)
        torch.testing.assert_close(large.encoder[0][1].depthwise.weight.data, tensors[wanted], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_upkern_interpolates_the_depthwise_kernels_and_copies_all_else(dims):
    arguments = {"num_classes": 3, "width": 4, "spatial_dims": dims, "grn": True, "norm": "layer"}
    small, large = (segzoo.create_model(f"mednext_s_{kernel}", **arguments) for kernel in ("k3", "k5"))
    before = {key: value.clone() for key, value in small.state_dict().items()}
    assert segzoo.upkern(small, large) is None
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    interpolated = 0
    for key, value in large.state_dict().items():
        if value.shape == before[key].shape:
            assert torch.equal(value, before[key]), key
        else:
            interpolated += 1
            assert torch.equal(value, F.interpolate(before[key], size=(5,) * dims, mode=mode)), key
    assert interpolated == 26
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())


def test_upkern_names_what_only_one_model_has(caplog):
    caplog.set_level("INFO", "segzoo")
    small, large = segzoo.create_model("mednext", width=4), segzoo.create_model("mednext_s_k5", width=4)
    segzoo.upkern(small, large)
    assert caplog.messages == []
    bare = segzoo.create_model("mednext_s_k5", width=4, deep_supervision=False)
    segzoo.upkern(small, bare)
    assert "auxiliary_heads.0.weight" in caplog.messages[-1]
    segzoo.upkern(bare, segzoo.create_model("mednext", width=4))
    assert "newly initialised" in caplog.messages[-1]


def test_upkern_remembers_what_the_small_model_was_trained_on():
    small, large = segzoo.create_model("mednext", width=4), segzoo.create_model("mednext_s_k5", width=4)
    small.data = {"dataset": "Task04_Hippocampus", "split_sha256": "1"}
    segzoo.upkern(small, large)
    assert large.data == small.data
    segzoo.upkern(segzoo.create_model("mednext", width=4), large)  # of which nothing is known
    assert large.data == small.data


def test_upkern_refuses_other_networks_and_leaves_them_alone(refused):
    small = segzoo.create_model("mednext", width=4)
    for other in (
        MedNeXt(width=8, kernel_size=5),
        MedNeXt(width=4, kernel_size=5, spatial_dims=2),
        MedNeXt(width=4, kernel_size=5, num_classes=3),
        torch.nn.Linear(2, 2),
        MedNeXt(width=4, kernel_size=5, norm="layer"),
        MedNeXt(width=4, kernel_size=5, strides=((1, 2, 2), 2, 2, 2)),
    ):
        before = {key: value.clone() for key, value in other.state_dict().items()}
        with refused(segzoo.SegzooError) as raised:
            segzoo.upkern(small, other)
        assert "\n" not in str(raised.value)
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_upkern_from_a_checkpoint_in_the_shell(samples, tmp_path, capsys):
    arguments = {"width": 4, "spatial_dims": 2}
    small = segzoo.create_model("mednext_s_k3", **arguments)
    folder = small.save_pretrained(tmp_path / "small")
    command = [
        *("fit", "--model", "mednext_s_k5", "--model.upkern_from", str(folder)),
        *("--model.width", "4", "--model.spatial_dims", "2", "--model.optimizer", "torch.optim.SGD"),
        *("--model.optimizer.lr", "0", "--data", "BUSI", "--data.root", str(samples), "--data.image_size", "32"),
        *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "run")),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.max_epochs", "1", "--data.num_workers", "0"),
    ]
    assert main(command) == 0
    assert "210 tensors copied and 26 interpolated" in capsys.readouterr().err
    for file in folder.iterdir():
        file.unlink()  # what was trained needs it no more
    trained = segzoo.from_pretrained(tmp_path / "run" / "checkpoint")
    assert "upkern_from" not in trained.arguments
    assert torch.equal(trained.head.weight, small.head.weight)
    expected = F.interpolate(small.up[0].depthwise.weight, size=(5, 5), mode="bilinear")
    torch.testing.assert_close(trained.up[0].depthwise.weight, expected)


def test_upkern_from_reports_and_refuses(tmp_path, refused):
    folder = segzoo.create_model("mednext", width=4, num_classes=3).save_pretrained(tmp_path / "small")
    model = segzoo.create_model("mednext_s_k5", width=4, num_classes=2, in_channels=2, upkern_from=str(folder))
    report = model.load_report
    assert len(report.interpolated) == 26
    assert report.adapted == ["stem.weight"]
    assert len(report.initialised) == 10
    assert len(report.loaded) == 236 - 26 - 1 - 10
    assert model.preprocessing == MedNeXt(in_channels=2, width=4).preprocessing
    other = segzoo.create_model("cmunext_s").save_pretrained(tmp_path / "other")
    for source in (other, "no-such"):
        with refused(segzoo.SegzooError):
            segzoo.create_model("mednext_s_k5", width=4, upkern_from=str(source))
    with refused(segzoo.SegzooError):
        segzoo.create_model("mednext_b_k5", width=4, upkern_from=str(folder))
