"""``segzoo predict`` of a video: a mask a frame, and an overlaid video of the same rate and turn."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segzoo
from segzoo.cli.command import main
from segzoo.imaging.images import read_image, write_mask
from segzoo.prediction.pipeline import Pipeline

av = pytest.importorskip("av", reason="videos need PyAV (medsegzoo[video])")

FRAMES = 12
RATE = Fraction(30000, 1001)


def write_video(file: Path, frames, *, turn: int = 0, codec: str = "ffv1", uneven: bool = False, **options) -> Path:
    """A video without loss where the codec has none, of which every third frame may stay for two."""
    with av.open(str(file), "w", options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        time = 0
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, 1 / RATE
            container.mux(stream.encode(frame))
            time += 2 if uneven and number % 3 == 0 else 1
        container.mux(stream.encode(None))
    return file


def shown(file: Path) -> tuple[list[np.ndarray], list[float], set[int], Fraction]:
    """Frames of a video, when they are shown, its turn and its rate."""
    with av.open(str(file)) as container:
        frames = list(container.decode(video=0))
        images = [frame.to_ndarray(format="rgb24") for frame in frames]
        times = [frame.time - frames[0].time for frame in frames]
        return images, times, {frame.rotation for frame in frames}, container.streams.video[0].average_rate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    import torch

    torch.manual_seed(3)
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 48))
    with torch.no_grad():
        model.head.bias.zero_()
    return model.save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def frames(samples) -> list[np.ndarray]:
    file = sorted((samples / "BUSI").rglob("*[0-9]).png"))[0]
    still = np.asarray(Image.open(file).convert("RGB").resize((90, 64)))
    return [np.ascontiguousarray(np.roll(still, 4 * number, axis=1)) for number in range(FRAMES)]


def predict(checkpoint: Path, *inputs: Path, output: Path) -> int:
    return main(["predict", str(checkpoint), *map(str, inputs), "--output", str(output), "--device", "cpu"])


def masks_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize(("turn", "uneven"), [(0, False), (90, True)])
def test_each_frame_has_its_mask_and_the_overlay_its_rate_and_turn(checkpoint, frames, tmp_path, capsys, turn, uneven):
    video = write_video(tmp_path / "clip.mkv", frames, turn=0, uneven=uneven)
    if turn:  # which Matroska does not hold
        video = write_video(tmp_path / "clip.mp4", frames, turn=turn, codec="libx264", uneven=uneven, crf="0")
    images, times, turns, _ = shown(video)
    assert predict(checkpoint, video, output=tmp_path / "out") == 0
    expected = [segzoo.from_pretrained(checkpoint).predict(image) for image in images]
    found = masks_of(tmp_path / "out" / "clip")
    assert len(found) == FRAMES
    for mask, one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, one.mask)
    overlay, shown_at, turned, kept_rate = shown(tmp_path / "out" / "clip_overlay.mp4")
    assert len(overlay) == FRAMES
    np.testing.assert_allclose(shown_at, times, atol=2e-3)
    assert turned == turns == {turn}
    # the containers count time in other units; of an uneven one the average depends on how long the last frame stays
    assert uneven or float(kept_rate) == pytest.approx(float(RATE), rel=1e-3)
    drawn = np.asarray(expected[5].overlay()).astype(int)
    assert np.abs(overlay[5].astype(int) - drawn).mean() < 12
    assert f"{FRAMES} frames, class 1 " in capsys.readouterr().out


def test_odd_sides_are_made_even(checkpoint, frames, tmp_path):
    video = write_video(tmp_path / "odd.mkv", [np.ascontiguousarray(one[:63, :89]) for one in frames[:3]])
    assert predict(checkpoint, video, output=tmp_path / "out") == 0
    assert masks_of(tmp_path / "out" / "odd")[0].shape == (63, 89)
    assert shown(tmp_path / "out" / "odd_overlay.mp4")[0][0].shape == (64, 90, 3)


def test_of_a_video_that_is_cut_short_what_there_is_is_kept(checkpoint, frames, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4", frames * 4, codec="libx264", movflags="faststart")
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    assert predict(checkpoint, video, output=tmp_path / "out") == 2
    err = capsys.readouterr().err
    count = len(masks_of(tmp_path / "out" / "clip"))
    assert 0 < count < 4 * FRAMES
    assert f"after {count} frames" in err
    assert "Traceback" not in err
    assert len(shown(tmp_path / "out" / "clip_overlay.mp4")[0]) == count


def test_masks_that_are_there_are_kept(checkpoint, frames, tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mkv", frames)
    assert predict(checkpoint, video, output=tmp_path / "out") == 0
    before = masks_of(tmp_path / "out" / "clip")
    overlaid = shown(tmp_path / "out" / "clip_overlay.mp4")[0]
    (tmp_path / "out" / "clip" / "clip_000003.png").unlink()
    (tmp_path / "out" / "clip_overlay.mp4").unlink()  # as after a kill
    done, segment = [], Pipeline.segment
    monkeypatch.setattr(Pipeline, "segment", lambda self, given: (done.append(len(given)), segment(self, given))[1])
    assert predict(checkpoint, video, output=tmp_path / "out") == 0
    assert done == [1]
    assert all(map(np.array_equal, masks_of(tmp_path / "out" / "clip"), before))
    assert all(map(np.array_equal, shown(tmp_path / "out" / "clip_overlay.mp4")[0], overlaid))


def test_what_was_not_made_from_this_video_stays(checkpoint, frames, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mkv", frames[:3])
    own = tmp_path / "out" / "clip" / "clip_000001.png"
    write_mask(own, np.ones((4, 4), np.uint8))
    assert predict(checkpoint, video, output=tmp_path / "out") == 2
    assert "clip_000001.png is in the way" in capsys.readouterr().err
    assert np.asarray(Image.open(own)).shape == (4, 4)
    other = shutil.copy(video, tmp_path / "out" / "film_overlay.mp4")
    assert predict(checkpoint, shutil.copy(video, tmp_path / "film.mkv"), output=tmp_path / "out") == 2
    assert "film_overlay.mp4 is in the way" in capsys.readouterr().err
    assert Path(other).read_bytes() == video.read_bytes()


def test_one_bad_video_does_not_stop_the_others(checkpoint, frames, tmp_path, capsys):
    good = write_video(tmp_path / "good.mkv", frames[:2])
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    still = tmp_path / "still.png"
    Image.fromarray(frames[0]).save(still)
    gone = tmp_path / "gone.mp4"
    assert predict(checkpoint, bad, gone, good, still, output=tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "bad.mp4" in err
    assert "gone.mp4" in err
    assert "2 of 4 inputs were not segmented" in err
    assert len(masks_of(tmp_path / "out" / "good")) == 2
    mask = segzoo.from_pretrained(checkpoint).predict(read_image(still)).mask
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "still.png")), mask)


def test_two_videos_of_one_name_are_refused(checkpoint, frames, tmp_path, capsys):
    one = write_video(tmp_path / "clip.mkv", frames[:1])
    assert predict(checkpoint, one, shutil.copy(one, tmp_path / "clip.avi"), output=tmp_path / "out") == 2
    assert "would both be written to clip" in capsys.readouterr().err
