"""Med-URWKV: its two forms, its encoder's weights, its recipe."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import segzoo
from segzoo.checkpoints.weights import sha256
from segzoo.cli.command import main
from segzoo.models import _fetched, med_urwkv
from segzoo.models.med_urwkv import MedURWKV
from segzoo.nn import expand
from segzoo.nn.vrwkv_sizes import EncoderSize
from segzoo.training.callbacks import FrozenEncoder

NANO = EncoderSize(
    24, 0.1, plain_scale=None, adapter_scale=0.5, depth=4, img_size=32, post_norm=False, deform_num_heads=3
)
DECODER = {"width": 8, "depths": (1, 1, 1, 1), "head_width": 4}


@pytest.fixture
def nano(monkeypatch):
    """Builds the class with an encoder that is as small as it gets."""
    monkeypatch.setitem(med_urwkv.ENCODERS, "tiny", NANO)
    torch.manual_seed(0)
    return lambda **arguments: MedURWKV(**{**DECODER, **arguments})


def random_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """Values unlike those any model starts from; variances stay positive."""
    generator = torch.Generator().manual_seed(1)
    return {key: torch.rand(value.shape, generator=generator) + 0.1 for key, value in model.state_dict().items()}


def strings(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


# ---- sizes


@pytest.mark.parametrize(
    ("name", "encoder", "parameters"),
    [
        ("med_urwkv_t", "adapter", 14_314_353),
        ("med_urwkv_t", "plain", 12_317_185),
        ("med_urwkv_s", "adapter", 38_201_745),
        ("med_urwkv_s", "plain", 34_147_585),
        ("med_urwkv_b", "adapter", 141_460_833),
        ("med_urwkv_b", "plain", 134_871_169),
    ],
)
def test_number_of_parameters(name, encoder, parameters):
    with torch.device("meta"):
        model = segzoo.create_model(name, encoder=encoder)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.arguments["encoder"] == encoder


def test_the_papers_size_is_met_within_a_percent():
    assert abs(segzoo.registry.models()["med_urwkv"].parameters - 14.33e6) < 0.01 * 14.33e6


@pytest.mark.parametrize(("name", "encoder"), [("vrwkv_adapter_tiny", "adapter"), ("vrwkv_tiny", "plain")])
def test_the_encoder_has_the_originals_names(shared, name, encoder):
    shapes = json.loads((shared / "golden" / "vrwkv_keys.json").read_text())[name]["shapes"]
    with torch.device("meta"):
        own = segzoo.create_model("med_urwkv", encoder=encoder).encoder
    assert {key: list(value.shape) for key, value in own.state_dict().items()} == shapes
    assert own.taps == ([2, 5, 8, 11] if encoder == "plain" else [11])


@pytest.mark.parametrize("encoder", ["adapter", "plain"])
@pytest.mark.parametrize("size", [(224, 224), (256, 256), (512, 512), (384, 640), (230, 250)])
def test_any_size_of_image(nano, encoder, size):
    model = nano(encoder=encoder, num_classes=3).eval()
    features: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        assert model(torch.randn(1, 3, *size)).shape == (1, 3, *size)
    assert features[0].shape == (1, 4, *(-(-side // 32) * 32 for side in size))


@pytest.mark.parametrize("encoder", ["adapter", "plain"])
def test_skips_are_at_the_papers_scales(nano, encoder):
    model = nano(encoder=encoder)
    features = model.encoder(torch.randn(2, 3, 64, 96))
    if encoder == "plain":
        assert [tuple(tap.shape) for tap in features] == [(2, 24, 4, 6)] * 4
        features = model.pyramid(features)
    assert [tuple(feature.shape) for feature in features] == [(2, 24, 64 // s, 96 // s) for s in (4, 8, 16, 32)]


def test_patches_expand_and_merge_in_place():
    """A value stays where it is in the image, whichever way the layers between are wired."""
    image = torch.arange(24.0).view(1, 1, 4, 6)
    merge, expand = med_urwkv.PatchMerge(1), med_urwkv.PatchExpand(4, 1)
    merge.norm, expand.norm = torch.nn.Identity(), torch.nn.Identity()
    merge.reduce = torch.nn.Identity()
    torch.nn.init.eye_(expand.expand.weight)
    merged = merge(image)
    assert merged[0, :, 1, 2].tolist() == [16, 17, 22, 23]
    assert torch.equal(expand(merged), image)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_head_reads_tiles_of_the_last_map_and_gives_what_it_gives_of_the_whole(monkeypatch, classes):
    monkeypatch.setattr(expand, "TILE", 300)  # 4 tokens at a time, of 30
    last = med_urwkv.PatchExpand(6, 8, scale=3).double()
    torch.nn.init.normal_(last.norm.weight)
    torch.nn.init.normal_(last.norm.bias)
    head = torch.nn.Conv2d(8, classes, 1).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, *last.parameters(), *head.parameters()]
    whole, in_tiles = head(last(x)), last.forward_to(head, x)
    slope = torch.randn_like(whole)
    gradients, expected = (torch.autograd.grad(logits, inputs, slope) for logits in (in_tiles, whole))
    for one, other in zip((in_tiles, *gradients), (whole, *expected), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(last.forward_to(head, x), whole)


@pytest.mark.parametrize(
    "arguments",
    [
        {"encoder": "plane"},
        {"encoder_size": "huge"},
        {"depths": (1, 2, 3)},
    ],
)
def test_what_cannot_be_built_is_one_sentence(arguments, refused):
    with refused(segzoo.SegzooError) as raised:
        MedURWKV(**arguments)
    assert "\n" not in str(raised.value)


# ---- the encoder's weights


@pytest.mark.parametrize(
    ("encoder", "wrap", "unused"),
    [
        ("plain", lambda s: {"meta": {"epoch": 300}, "state_dict": strings("backbone.", s) | heads("head.fc")}, 1),
        ("adapter", lambda s: {"state_dict": strings("backbone.", s) | heads("decode_head.a", "auxiliary_head.b")}, 2),
        ("adapter", lambda s: {"state_dict": strings("module.backbone.", s)}, 0),
        ("plain", lambda s: {"model": strings("module.", s), "epoch": 3}, 0),
        ("plain", lambda s: {"module": s | heads("head")}, 1),
        ("plain", lambda s: s, 0),
        ("adapter", lambda s: strings("encoder.", s) | heads("decoder", "head"), 2),
    ],
    ids=["mmcls", "mmseg", "parallel", "model", "deepspeed", "bare", "our_own"],
)
def test_every_upstream_container_fills_the_encoder(nano, tmp_path, caplog, encoder, wrap, unused):
    caplog.set_level("INFO", "segzoo")
    state = random_state(nano(encoder=encoder).encoder)
    torch.save(wrap(state), tmp_path / "weights.pth")
    model = segzoo.create_model("med_urwkv", encoder=encoder, encoder_weights=str(tmp_path / "weights.pth"))
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key
    report = model.load_report
    assert set(report.loaded) == {f"encoder.{key}" for key in state}
    assert len(report.ignored) == unused
    assert report.adapted == report.initialised == []
    assert str(tmp_path / "weights.pth") in str(report)
    assert caplog.messages == ([str(report)] if unused else [])
    assert "encoder_weights" not in model.arguments


def heads(*names: str) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.zeros(2, 2) for name in names}


def test_safetensors_are_read_too(nano, tmp_path):
    state = random_state(nano().encoder)
    save_file(state, tmp_path / "weights.safetensors")
    model = nano(encoder_weights=str(tmp_path / "weights.safetensors"))
    assert torch.equal(model.encoder.up.weight, state["up.weight"])


def test_imagenet_weights_fill_the_adapters_trunk(nano, tmp_path):
    state = random_state(nano(encoder="plain").encoder)
    assert not any("gamma" in key for key in state)
    torch.save({"state_dict": strings("backbone.", state)}, tmp_path / "imagenet.pth")
    model = nano(encoder_weights=str(tmp_path / "imagenet.pth"))
    own, report = model.encoder.state_dict(), model.load_report
    trunk = [key for key in state if not key.startswith("ln1.")]
    assert all(torch.equal(own[key], state[key]) for key in trunk)
    assert set(report.loaded) == {f"encoder.{key}" for key in trunk}
    assert report.ignored == ["ln1.weight", "ln1.bias"]  # the adapter has no last norm
    assert set(report.loaded) | set(report.initialised) == {f"encoder.{key}" for key in own}
    assert "4 layers" not in str(report).split("not used")[1]
    assert all(layer.gamma1.eq(1).all() and layer.gamma2.eq(1).all() for layer in model.encoder.layers)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_and_positions_are_adapted(nano, tmp_path, channels):
    state = random_state(nano().encoder)
    state["pos_embed"] = torch.full((1, 9, 24), 0.5)  # of images of 48x48
    torch.save(state, tmp_path / "weights.pth")
    model = nano(in_channels=channels, encoder_weights=str(tmp_path / "weights.pth"))
    assert set(model.load_report.adapted) == {
        "encoder.patch_embed.projection.weight",
        "encoder.spm.stem.0.weight",
        "encoder.pos_embed",
    }
    torch.testing.assert_close(model.encoder.pos_embed, torch.full((1, 4, 24), 0.5))
    grey = torch.rand(1, 1, 32, 32)
    rgb = F.conv2d(grey.expand(1, 3, 32, 32), state["patch_embed.projection.weight"], stride=16)
    ours = F.conv2d(grey.expand(1, channels, 32, 32), model.encoder.patch_embed.projection.weight, stride=16)
    if channels == 1:
        torch.testing.assert_close(ours, rgb)
    assert ours.shape == rgb.shape


class Dangerous:
    def __reduce__(self):
        return (print, ("code from a pickle ran",))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "pos_embed": torch.zeros(1, 4, 384)},
        lambda s: {k: v for k, v in s.items() if ".3." not in k},
        lambda s: {k: v for k, v in s.items() if k != "layers.2.att.key.weight"},
        lambda s: {**s, "layers.0.att.key_norm.weight": torch.zeros(24)},
        lambda s: {**s, "layers.0.ffn.key.weight": torch.zeros(48, 24)},
        lambda s: {**s, "pos_embed": torch.zeros(1, 5, 24)},
        lambda s: {**s, "level_embed": torch.zeros(3, 24)},
        lambda s: {"conv.weight": torch.zeros(3)},
        lambda s: {"epoch": 3},
        lambda s: [s],
        lambda s: {"state_dict": s, "hooks": Dangerous()},
    ],
)
def test_files_of_another_size_or_form_are_refused_in_one_sentence(nano, tmp_path, capsys, change, refused):
    torch.save(change(random_state(nano(encoder="plain").encoder)), tmp_path / "other.pth")
    with refused(segzoo.SegzooError) as raised:
        nano(encoder="plain", encoder_weights=str(tmp_path / "other.pth"))
    assert "\n" not in str(raised.value)
    assert "ran" not in capsys.readouterr().out


def test_weights_that_are_not_there_are_one_sentence(nano, monkeypatch, tmp_path, refused):
    with refused(segzoo.MissingError):
        nano(encoder_weights="nowhere.pth")

    def unreachable(url: str, **_: object) -> None:
        asked.append(url)
        raise ConnectionError("no network")

    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    for source in ("imagenet", "ade20k"):
        with refused(segzoo.MissingError):
            nano(encoder_weights=source)
    assert [url.rpartition("/")[2] for url in asked] == [
        "vrwkv_t_in1k_224.pth",
        "upernet_vrwkv_adapter_tiny_512_160k_ade20k.pth",
    ]


def test_the_hubs_files_are_read(nano, monkeypatch, tmp_path):
    state = random_state(nano().encoder)
    torch.save({"state_dict": strings("backbone.", state)}, tmp_path / "fetched.pth")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "fetched.pth"))
    assert torch.equal(nano(encoder_weights="ade20k").encoder.level_embed, state["level_embed"])


def test_the_bytes_that_were_hashed_are_those_that_are_loaded(nano, monkeypatch, tmp_path):
    """Somebody changes the cached file right after it was read to be compared with its hash."""
    state = random_state(nano().encoder)
    torch.save(state, tmp_path / "fetched.pth")
    hashed = tmp_path / sha256(tmp_path / "fetched.pth")  # as the Hub's client calls it
    (tmp_path / "fetched.pth").rename(hashed)
    (tmp_path / "fetched.pth").symlink_to(hashed)

    def read_and_change(path):
        content = path.read_bytes()
        hashed.write_bytes(b"changed")
        return content

    monkeypatch.setattr(_fetched, "read_bytes", read_and_change)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "fetched.pth"))
    assert torch.equal(nano(encoder_weights="ade20k").encoder.level_embed, state["level_embed"])


@pytest.mark.parametrize("encoder", ["adapter", "plain"])
def test_convert_takes_the_encoder_from_the_original_and_the_rest_from_the_model(nano, encoder, refused):
    model = nano(encoder=encoder)
    state = random_state(model.encoder)
    converted = segzoo.convert({"state_dict": strings("backbone.", state) | heads("decode_head")}, model)
    for key, value in model.state_dict().items():
        expected = state[key.removeprefix("encoder.")] if key.startswith("encoder.") else value
        assert torch.equal(converted[key], expected), key
    model.load_state_dict(converted, strict=True)
    with refused(segzoo.SegzooError):
        segzoo.convert(state, nano(encoder="plain" if encoder == "adapter" else "adapter"))
    del state["layers.1.ffn.key.weight"]
    with refused(segzoo.SegzooError):
        segzoo.convert(state, model)


def test_absent_layer_scales_are_one(nano):
    """The original's tiny ImageNet file has none, and its adapter, which has them, starts from 1."""
    model = nano()
    assert model.encoder.layers[0].gamma1.eq(0.5).all()
    state = {key: value for key, value in random_state(model.encoder).items() if not key.endswith(("gamma1", "gamma2"))}
    for target, prefix in ((model, "encoder."), (model.encoder, "")):
        converted = segzoo.convert(state, target)
        assert all(converted[f"{prefix}layers.{index}.gamma2"].eq(1).all() for index in range(4))


def test_layer_scales_are_all_there_or_none(nano, tmp_path, refused):
    model = nano()
    state = random_state(model.encoder)
    del state["layers.2.gamma1"]
    torch.save(state, tmp_path / "damaged.pth")
    for target in (model, model.encoder):
        with refused(segzoo.SegzooError):
            segzoo.convert(state, target)
    with refused(segzoo.SegzooError):
        nano(encoder_weights=str(tmp_path / "damaged.pth"))


# ---- the recipe


def test_norms_biases_mixes_and_positions_do_not_decay(nano):
    model = nano()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {
        names[id(parameter)]: group["weight_decay"]
        for group in model.default_optimizer(model.parameters()).param_groups
        for parameter in group["params"]
    }
    assert decay.keys() == set(names.values())
    assert {name for name, value in decay.items() if value == 0} == {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 1 or name.split(".")[-1].startswith("spatial_mix") or "_embed" in name.split(".")[-1]
    }
    for name in ("encoder.pos_embed", "encoder.layers.0.att.spatial_mix_k", "encoder.layers.0.att.spatial_decay"):
        assert decay[name] == 0
    assert decay["encoder.layers.0.att.key.weight"] == decay["head.weight"] == med_urwkv.WEIGHT_DECAY


def test_the_optimizer_takes_only_what_it_is_given(nano):
    model = nano()
    optimizer = model.default_optimizer(model.head.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_layer_wise_decay_lowers_the_rate_block_by_block(nano):
    model = nano(layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"] / med_urwkv.LEARNING_RATE
        for group in model.default_optimizer(model.parameters()).param_groups
        for parameter in group["params"]
    }
    assert rates["encoder.pos_embed"] == rates["encoder.patch_embed.projection.weight"] == 0.5**5
    assert [rates[f"encoder.layers.{index}.ln1.weight"] for index in range(4)] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert rates["encoder.spm.fc1.weight"] == rates["decoder.0.fuse.weight"] == rates["head.weight"] == 1


def test_the_rate_falls_to_zero_also_in_a_run_that_is_continued_for_longer(nano, monkeypatch):
    def scheduled(steps: int):
        monkeypatch.setattr(model, "total_steps", lambda: steps)
        optimizer = model.default_optimizer(model.head.parameters())
        return optimizer, *model.default_lr_scheduler(optimizer)

    def run(optimizer, scheduler, steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"] / med_urwkv.LEARNING_RATE)
        return rates

    model = nano()
    optimizer, scheduler, interval = scheduled(4)
    assert interval == "step"
    assert run(optimizer, scheduler, 4) == pytest.approx([(1 - step / 4) ** 0.9 for step in (1, 2, 3, 4)])
    longer_optimizer, longer, _ = scheduled(8)
    longer_optimizer.load_state_dict(optimizer.state_dict())
    longer.load_state_dict(scheduler.state_dict())
    assert run(longer_optimizer, longer, 4) == pytest.approx([(1 - step / 8) ** 0.9 for step in (5, 6, 7, 8)])


def frozen_for(model: MedURWKV) -> list[float]:
    """For how many epochs the model's own callbacks keep its encoder frozen."""
    return [callback.epochs for callback in model.configure_callbacks() if isinstance(callback, FrozenEncoder)]


def test_the_encoder_is_frozen_for_five_epochs_unless_told_otherwise(nano):
    assert frozen_for(nano()) == [5]
    assert frozen_for(nano(frozen_epochs=0)) == []
    told = segzoo.create_model("med_urwkv", frozen_epochs=0, layer_decay=0.9)
    assert not {"frozen_epochs", "layer_decay"} & set(told.arguments)  # a checkpoint is fine-tuned by the recipe


def test_a_whole_checkpoint_trains_further_at_once(nano, tmp_path):
    segzoo.create_model("med_urwkv").save_pretrained(tmp_path / "checkpoint")
    assert frozen_for(segzoo.from_pretrained(tmp_path / "checkpoint")) == []


def test_an_encoder_from_a_checkpoint_remembers_what_it_was_trained_on(nano, tmp_path, refused):
    pretrained = segzoo.create_model("med_urwkv")
    pretrained.data = {"dataset": "BUSI", "split_sha256": "1", "licence": "CC0-1.0"}
    weights = pretrained.save_pretrained(tmp_path / "checkpoint") / "model.safetensors"
    assert segzoo.create_model("med_urwkv", encoder_weights=str(weights)).data == pretrained.data
    changed = bytes([*weights.read_bytes()[:-1], 7])
    weights.write_bytes(changed)
    with refused(segzoo.SegzooError):  # or what it is said to be trained on would be of other weights
        segzoo.create_model("med_urwkv", encoder_weights=str(weights))
    other = weights.with_name("other.safetensors")  # beside a checkpoint, and no part of it
    shutil.copyfile(weights, other)
    assert segzoo.create_model("med_urwkv", encoder_weights=str(other)).data == {}
    (weights.parent / "config.json").write_text('{"architectures": ["VRWKV"]}')
    assert segzoo.create_model("med_urwkv", encoder_weights=str(weights)).data == {}


def test_fit_runs_the_recipe(nano, samples, tmp_path):
    """The command line: five epochs leave the given encoder as it is, and the next, resumed, train it."""
    state = random_state(nano().encoder)
    state |= {key: 0.1 * value for key, value in state.items() if key.endswith("weight")}
    save_file(state, tmp_path / "encoder.safetensors")
    command = [
        *("fit", "--model", "med_urwkv", "--model.encoder_weights", str(tmp_path / "encoder.safetensors")),
        *("--data", "BUSI", "--data.root", str(samples), "--data.image_size", "32", "--data.batch_size", "4"),
        *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "run")),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--pictures", "0"),
        *("--model.depths", "[1,1,1,1]", "--model.head_width", "16"),  # seven epochs of it are enough to wait for
    ]
    assert main([*command, "--trainer.max_epochs", "5"]) == 0
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in state.items():
        assert torch.equal(kept[f"encoder.{key}"], value.to(kept[f"encoder.{key}"].dtype)), key
    assert main([*command, "--trainer.max_epochs", "7", "--ckpt_path", str(tmp_path / "run" / "last.ckpt")]) == 0
    moved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    for key in ("patch_embed.projection.weight", "layers.3.att.spatial_decay", "norm4.running_mean"):
        assert not torch.equal(moved[f"encoder.{key}"], state[key]), key
    published = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert published.keys() == moved.keys()


# ---- half precision


@pytest.fixture(scope="module")
def trained(samples) -> tuple[MedURWKV, Tensor]:
    """A small model that has learnt to segment one image, and that image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(med_urwkv.ENCODERS, "tiny", NANO)
        torch.manual_seed(0)
        model = MedURWKV(**{**DECODER, "width": 32, "head_width": 16}, drop_path=0)
    data = segzoo.data.BUSI(samples, split="all", image_size=64, batch_size=1)
    batch = next(iter(data.test_dataloader()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.compute_loss(model(batch["image"]), batch["label"]).backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        mask = model.mask(model.activate(model(batch["image"])))
    overlap = 2 * (mask * batch["label"]).sum() / (mask.sum() + batch["label"].sum())
    assert overlap > 0.5  # else the masks below say nothing
    return model, batch["image"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_the_same_mask_but_for_boundary_pixels(trained, dtype):
    model, image = trained
    with torch.inference_mode():
        full = model.mask(model.activate(model(image)))
        with torch.autocast("cpu", dtype=dtype):
            half = model.mask(model.activate(model(image)))
    wide = F.max_pool2d(full.float(), 3, stride=1, padding=1)
    narrow = -F.max_pool2d(-full.float(), 3, stride=1, padding=1)
    assert not ((full != half) & (wide == narrow)).any()
    assert (full != half).float().mean() < 0.01
