"""segzoo.Predictor, made once: frames, lists and streams of them; and a list for model.predict."""

import io
import threading
import time
from dataclasses import replace
from shutil import which

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.imaging.volumes import read_volume


@pytest.fixture(scope="module")
def frames(samples) -> list[np.ndarray]:
    files = sorted((samples / "BUSI").rglob("*[0-9]).png"))[:3]
    return [np.asarray(Image.open(file).convert("RGB").resize((97, 80))) for file in files]


@pytest.fixture(scope="module")
def model():
    return segzoo.from_pretrained("lv-unet-busi")


@pytest.fixture(scope="module")
def predictor():
    return segzoo.Predictor("lv-unet-busi", device="cpu")


def same(one: segzoo.Segmentation, other: segzoo.Segmentation) -> bool:
    equal = np.array_equal(one.probabilities, other.probabilities) and np.array_equal(one.mask, other.mask)
    return equal and np.array_equal(one.image, other.image)


def test_a_predictor_gives_the_masks_of_the_model(model, predictor, frames):
    for frame in frames:
        assert same(predictor(frame), model.predict(frame))
    assert predictor.class_names == model.class_names
    assert "CPU" in repr(predictor)


def test_a_list_gives_a_list(model, predictor, frames, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    expected = [model.predict(frame) for frame in frames]
    mixed = [frames[0], files[1], Image.open(files[2])]
    for found in (model.predict(frames), model.predict(files), model.predict(mixed), predictor(frames)):
        assert all(map(same, found, expected))
    assert model.predict([]) == predictor([]) == []
    ((alone,), numbers) = model.predict(frames[:1]), model.predict(frames[0].tolist())
    assert same(alone, expected[0])
    assert same(numbers, expected[0])  # lists of numbers are one image


def test_inputs_of_one_size_are_segmented_together_where_that_is_faster(predictor, frames, monkeypatch):
    pipeline, sizes = predictor._pipeline, []
    segment = pipeline.segment
    monkeypatch.setattr(pipeline, "batch_size", 2)  # as on a GPU
    monkeypatch.setattr(pipeline, "segment", lambda given: (sizes.append(len(given)), segment(given))[1])
    found = predictor([*frames, frames[0]])
    assert sizes == [2, 2]
    for one, frame in zip(found, [*frames, frames[0]], strict=True):
        np.testing.assert_array_equal(one.image, frame)


@pytest.mark.parametrize("which", ["list", "stream"])
def test_the_wrong_one_of_several_is_named(predictor, frames, refused, which):
    given = [frames[0], np.zeros((8, 8, 5), np.uint8), frames[1]]
    taken = []
    with refused(segzoo.SegzooError):
        taken.extend(predictor(given) if which == "list" else predictor.stream(given))
    assert len(taken) == (1 if which == "stream" else 0)


def test_a_stream_keeps_the_order(predictor, frames):
    found = list(predictor.stream(iter(frames)))
    assert all(same(one, predictor(frame)) for one, frame in zip(found, frames, strict=True))
    assert list(predictor.stream([])) == []


def test_a_stream_reads_the_next_frame_while_one_is_segmented(predictor, frames, monkeypatch):
    events, both = [], threading.Event()
    segment = predictor._pipeline.segment

    def source():
        for number, frame in enumerate(frames):
            events.append(f"read {number}")
            if number == 1:
                both.set()
            yield frame

    def slow(given):
        assert both.wait(10)  # frame 1 is read while frame 0 is here
        events.append("segmented")
        return segment(given)

    monkeypatch.setattr(predictor._pipeline, "segment", slow)
    assert len(list(predictor.stream(source()))) == 3
    assert events.index("read 1") < events.index("segmented")


def test_a_stream_gives_a_frame_out_before_the_one_after_next_has_come(predictor, frames):
    """Of a camera nothing waits longer than it must: with one frame in hand its mask is there."""
    came = threading.Semaphore(1)

    def camera():
        for frame in frames:
            assert came.acquire(timeout=10)
            yield frame

    stream = predictor.stream(camera())
    for _ in frames:
        next(stream)
        came.release()
    stream.close()


def test_a_camera_may_use_its_buffer_again(predictor, frames):
    buffer = np.empty_like(frames[0])

    def camera():
        for frame in frames:
            buffer[:] = frame
            yield buffer

    for one, frame in zip(predictor.stream(camera()), frames, strict=True):
        time.sleep(0.01)
        assert same(one, predictor(frame))


def test_a_loop_may_end_early(predictor, frames):
    threads = threading.active_count()
    stream = predictor.stream(frames * 10)
    next(stream)
    stream.close()
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lv-unet-busi", {"backend": "onnxruntime"}),
        ("lv-unet-busi", {"backend": "tensorrt"}),
        ("model.onnx", {"backend": "torch"}),
        ("model.onnx", {"device": "cuda"}),
        ("model.pt2", {}),
        ("nowhere.onnx", {}),
        ("lv-unet-bus", {}),
        (None, {}),
        ("lv-unet-busi", {"precision": "float16"}),
    ],
)
def test_what_cannot_be_a_predictor_is_one_sentence(name, options, refused):
    with refused(segzoo.SegzooError):
        segzoo.Predictor(name, **options)


# ---- bfloat16


def test_bfloat16_changes_probabilities_a_little(predictor, frames, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # else worked out in software
    low, same_as_ever = (
        segzoo.Predictor("lv-unet-busi", device="cpu", precision=one) for one in ("bfloat16", "float32")
    )
    expected, found = predictor(frames[0]), low(frames[0])
    assert found.probabilities.dtype == expected.probabilities.dtype == np.float32
    assert 0 < np.abs(found.probabilities - expected.probabilities).mean() < 0.01
    assert "bfloat16" in repr(low)
    assert same(same_as_ever(frames[0]), expected)


def test_bfloat16_needs_its_instructions(monkeypatch, refused):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    with refused(segzoo.SegzooError):
        segzoo.Predictor("lv-unet-busi", device="cpu", precision="bfloat16")


# ---- compiled

needs_compiler = pytest.mark.skipif(which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def checkpoint(small_models, tmp_path_factory):
    """A network that is compiled in seconds."""
    torch.manual_seed(0)
    return segzoo.create_model("small_images").save_pretrained(tmp_path_factory.mktemp("small") / "small")


@needs_compiler
def test_a_compiled_predictor_gives_the_same_masks(checkpoint, frames):
    compiled, other = (segzoo.Predictor(checkpoint, device="cpu", compile=one) for one in (True, False))
    for frame in frames[:2]:
        found, expected = compiled(frame), other(frame)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        assert np.mean(found.mask != expected.mask) < 1e-3
    assert "compiled" in repr(compiled)
    assert "compiled" not in repr(other)


def test_what_cannot_be_compiled_is_one_sentence(checkpoint, monkeypatch, refused):
    settings = pytest.importorskip("torch._inductor.config")
    torch.compiler.reset()  # what the test before has compiled
    monkeypatch.setattr(settings.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(settings, "fx_graph_cache", False)
    with refused(segzoo.SegzooError):
        segzoo.Predictor(checkpoint, device="cpu", compile=True)


# ---- notebooks


def test_a_notebook_shows_the_overlay(predictor, frames):
    found = predictor(frames[0])
    shown = Image.open(io.BytesIO(found._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(found.overlay()))
    image, mask = np.zeros((1500, 3000, 1), np.uint8), np.zeros((1500, 3000), np.uint8)
    large = segzoo.Segmentation(mask, mask[None], ("background", "lesion"), image)
    assert Image.open(io.BytesIO(large._repr_png_())).size == (1024, 512)
    assert replace(found, image=None)._repr_png_() is None


def test_what_a_notebook_prints_is_a_line(samples):
    volume = read_volume(samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_165.nii.gz")
    mask = np.zeros((1, *volume.geometry.shape), np.float32)
    found = segzoo.Segmentation(mask[0].astype(np.uint8), mask, ("background", "lesion"), geometry=volume.geometry)
    assert repr([found]) == "[<segzoo.Segmentation: 29 x 49 x 34, background, lesion>]"
    assert repr(volume) == "<segzoo.volumes.Volume: 1 x 29 x 49 x 34, 1 x 1 x 1 mm>"
    assert "nifti" not in repr(volume.geometry)
