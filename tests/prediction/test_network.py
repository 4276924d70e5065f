import itertools
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from torch import Tensor, nn

import processes
import segzoo
from segzoo.imaging.geometry import Geometry, same_grid
from segzoo.imaging.overlay import to_uint8
from segzoo.imaging.volumes import Volume, read_volume, read_volume_mask, volume_suffix
from segzoo.prediction.torch_backend import predict_probabilities


class Tiny(segzoo.SegmentationModule):
    """One convolution in 3D, which keeps the sizes of what it is given; ``pointwise`` sees single voxels."""

    spatial_dims = 3

    def __init__(
        self, num_classes: int = 3, multilabel: bool = False, pointwise: bool = False, **preprocessing
    ) -> None:
        super().__init__(1, num_classes, multilabel)
        torch.manual_seed(0)
        self.net = nn.Conv3d(1, num_classes, 1 if pointwise else 3, padding=0 if pointwise else 1)
        self.preprocessing = segzoo.VolumePreprocessing(**preprocessing)
        self.sizes: list[tuple[int, ...]] = []
        self.eval()

    def compute_logits(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape))
        return self.net(x)

    def default_optimizer(self, parameters):
        raise NotImplementedError

    def default_lr_scheduler(self, optimizer):
        raise NotImplementedError

    def deploy(self):  # so that a test sees the sizes
        return self


@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (2, 4, 5, 6)], ids=["segmented", "refused"])
def test_predict_leaves_every_module_in_its_own_mode(shape):
    network = Tiny(patch_size=(4, 4, 4))
    network.train()
    network.net.eval()  # as a frozen encoder is
    modes = {name: module.training for name, module in network.named_modules()}
    with nullcontext() if shape[0] == 1 else pytest.raises(segzoo.SegzooError):
        network.predict(np.zeros(shape, np.float32))
    assert {name: module.training for name, module in network.named_modules()} == modes


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return segzoo.create_model("cmunext_s").eval()


@pytest.fixture(scope="module")
def image(samples):
    return sorted((samples / "BUSI").rglob("*[0-9]).png"))[0]


def test_a_prediction_lies_on_the_images_own_grid(model, image):
    result = model.predict(image)
    width, height = Image.open(image).size
    assert result.mask.shape == (height, width)
    assert result.mask.dtype == np.uint8
    assert result.probabilities.shape == (1, height, width)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_array_equal(result.mask, result.probabilities[0] > 0.5)
    assert result.overlay().size == (width, height)


def test_paths_pictures_arrays_and_tensors_are_the_same_image(model, image):
    picture = Image.open(image).convert("RGB")
    array = np.asarray(picture)
    expected = model.predict(str(image)).probabilities
    for form in (picture, array, array.astype(np.float32), torch.from_numpy(array.transpose(2, 0, 1).copy())):
        np.testing.assert_array_equal(model.predict(form).probabilities, expected)


def test_predicting_leaves_the_model_as_it_was(image):
    model = segzoo.create_model("lv_unet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.predict(image)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_flips_average_to_a_prediction_that_flips_with_the_image(model, image):
    array = np.asarray(Image.open(image).convert("RGB").resize((256, 256)))
    result = model.predict(array, tta=True).probabilities
    mirrored = model.predict(array[:, ::-1], tta=True).probabilities[:, :, ::-1]
    np.testing.assert_allclose(result, mirrored, atol=1e-5)
    assert np.abs(model.predict(array).probabilities - result).max() > 1e-4


def test_multi_label_masks_are_one_file_a_class(image, tmp_path):
    model = segzoo.create_model("cmunext_s", num_classes=2, multilabel=True).eval()
    model.class_names = ("left lung", "heart")
    result = model.predict(image)
    assert result.mask.ndim == 3
    result.save(tmp_path / "scan.png")
    assert {file.name for file in tmp_path.iterdir()} == {"scan_left-lung.png", "scan_heart.png"}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scan_heart.png")), result.mask[1])


def test_multi_class_masks_hold_class_indices(image, tmp_path):
    model = segzoo.create_model("cmunext_s", num_classes=4).eval()
    result = model.predict(image)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(result.mask, result.probabilities.argmax(axis=0))
    result.save(tmp_path / "scan.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scan.png")), result.mask)


def test_the_overlay_outlines_the_mask():
    image, mask = np.full((20, 30, 1), 100, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 1
    overlay = np.asarray(
        segzoo.Segmentation(mask, mask[None].astype(np.float32), ("background", "lesion"), image).overlay()
    )
    assert (overlay[0, 0] == 100).all()
    assert (overlay[5, 12] == (230, 159, 0)).all()
    assert not (overlay[10, 15] == overlay[5, 12]).all()  # tinted, not painted over
    assert not (overlay[10, 15] == 100).all()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8, 5), np.uint8),
        np.full((8, 8), np.nan),
        "nowhere.png",
    ],
)
def test_images_that_cannot_be_read_are_one_sentence(model, bad, refused):
    with refused(segzoo.SegzooError):
        model.predict(bad)


# ---- volumes


@pytest.fixture(scope="module")
def scan(samples: Path) -> Path:
    return samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_148.nii.gz"


def test_a_volumes_prediction_lies_on_its_own_grid(scan, tmp_path):
    model = Tiny()
    result = model.predict(scan)
    volume = read_volume(scan)
    shape = volume.geometry.shape
    assert (result.mask.shape, result.mask.dtype) == (shape, np.uint8)
    assert (result.probabilities.shape, result.probabilities.dtype) == ((3, *shape), np.float32)
    with torch.no_grad():
        expected = model.activate(model(model.preprocessing(volume)[None]))[0].numpy()
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(result.mask, result.probabilities.argmax(axis=0))
    result.save(tmp_path / "mask.nii.gz")
    mask, geometry = read_volume_mask(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask, result.mask)
    assert same_grid(geometry, volume.geometry)


@pytest.mark.parametrize("orientation", ["PIR", "PSR", "LAS", "RAS"])
def test_a_prediction_turns_with_its_volume(scan, tmp_path, orientation):
    """The same scan stored with other axes gives the same mask in the same places of the body."""
    image = sitk.ReadImage(str(scan))
    letters = orientation.translate(str.maketrans("RLAPSI", "LRPAIS"))  # SimpleITK names where axes come from
    turned = sitk.DICOMOrient(image, letters)
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    options = {"spacing": (1.5, 0.9, 1.2)} if orientation == "PSR" else {}
    model = Tiny(**options)
    expected, found = model.predict(scan, tta=True), model.predict(tmp_path / "turned.nii.gz", tta=True)
    assert found.mask.shape == turned.GetSize()[::-1]
    found.save(tmp_path / "found.nii.gz")
    expected.save(tmp_path / "expected.nii.gz")
    back = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "found.nii.gz")), "LPS")
    reference = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "expected.nii.gz")), "LPS")
    np.testing.assert_allclose(back.GetOrigin(), reference.GetOrigin(), atol=1e-4)
    agreement = (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(reference)).mean()
    assert agreement > 0.9999
    assert len(np.unique(expected.mask)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "Task09_Spleen_crop/ct_scan/sub-spleen2/ct/sub-spleen2_ct.nii.gz",  # 5 mm slices
        "vertebrae_TPTBox/sample_ct/sub-ct_label-22_ct.nii.gz",  # PIR
        "spinalcord_sct/t2/t2.nii.gz",  # PSR
        "spinalcord_sct/t2s/t2s_uncropped.nii.gz",  # LAS, 7.5 mm slices
        "pyradiomics_cases/breast1_image.nrrd",
    ],
)
def test_masks_of_real_volumes_lie_where_the_volumes_do(shared, tmp_path, name):
    file = shared / "data" / name
    result = Tiny(spacing=(3, 2, 2), patch_size=(16, 64, 64)).predict(file)
    mask = tmp_path / f"mask{volume_suffix(file)}"
    result.save(mask)
    one, other = sitk.ReadImage(str(file)), sitk.ReadImage(str(mask))
    assert one.GetSize() == other.GetSize()
    for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        np.testing.assert_allclose(read(one), read(other), atol=1e-5)
    if ".nii" in name:
        nibabel = pytest.importorskip("nibabel")
        np.testing.assert_allclose(nibabel.load(file).affine, nibabel.load(mask).affine, atol=1e-5)
    assert max(result.overlay().size) > 500


def test_paths_volumes_arrays_and_tensors_are_the_same_volume(scan):
    volume = read_volume(scan)  # 1 mm, in the orientation of the model
    model = Tiny()
    expected = model.predict(str(scan)).probabilities
    array = volume.array
    for form in (volume, array, array[0], array[0].astype(np.float64), torch.from_numpy(array[0])):
        np.testing.assert_allclose(model.predict(form).probabilities, expected, atol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 8, 8, 8)),
        np.zeros((8, 8)),
        np.zeros((0, 8, 8)),
        np.full((8, 8, 8), np.nan),
        "nowhere.nii.gz",
        "picture.png",
        Image.new("L", (8, 8)),
    ],
)
def test_what_is_no_volume_is_one_sentence(bad, refused):
    with refused(segzoo.SegzooError):
        Tiny().predict(bad)


def test_a_volume_in_memory_may_hold_integers_in_any_layout():
    integers = np.random.default_rng(0).integers(-1000, 1000, (1, 6, 8, 10)).astype(np.int16)
    grid, model = Geometry.along_axes((6, 8, 10)), Tiny()
    expected = model.predict(Volume(integers.astype(np.float32), grid)).probabilities
    np.testing.assert_array_equal(model.predict(Volume(integers, grid)).probabilities, expected)
    backwards = np.ascontiguousarray(integers[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(model.predict(Volume(backwards, grid)).probabilities, expected)


@pytest.mark.parametrize(
    "array",
    [
        np.full((1, 8, 8, 8), np.nan, np.float32),
        np.zeros((1, 4, 8, 8), np.float32),
        np.zeros((8, 8), np.float32),
    ],
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_volume_that_contradicts_itself_is_one_sentence(array, dimensions, refused):
    model = Tiny() if dimensions == 3 else segzoo.create_model("cmunext_s", in_channels=1).eval()
    with refused(segzoo.SegzooError):
        model.predict(Volume(array, Geometry.along_axes((8, 8, 8))))


def test_weights_of_a_training_that_diverged_give_no_empty_mask(image, refused):
    model = segzoo.create_model("cmunext_s").eval()
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    with refused(segzoo.SegzooError):
        model.predict(image)


@pytest.mark.parametrize("batch", [torch.zeros(1, 3, 64, 64), np.zeros((1, 64, 64, 3), np.uint8)], ids=["CHW", "HWC"])
def test_a_batch_of_images_is_not_taken_for_a_volume(batch, refused):
    with refused(segzoo.SegzooError):
        segzoo.create_model("cmunext_s").predict(batch)


# ---- windows


def test_windows_of_a_pointwise_network_add_up_to_the_whole():
    model = Tiny(pointwise=True, patch_size=(8, 16, 12))
    batch = torch.randn(2, 1, 20, 33, 12)
    with torch.no_grad():
        whole = model.activate(model(batch))
        for overlap in (0, 0.5, 0.8):
            found = predict_probabilities(model, batch, overlap=overlap)
            np.testing.assert_allclose(found, whole, atol=1e-6)


def test_windows_are_weighted_by_a_gaussian_after_the_activation():
    class Place(Tiny):
        def compute_logits(self, x: Tensor) -> Tensor:
            return torch.linspace(-9, 4, x.shape[-1]).expand(x.shape)

    model = Place(num_classes=1, patch_size=(4, 4, 16))
    with torch.no_grad():
        found = predict_probabilities(model, torch.zeros(1, 1, 4, 6, 24))[0, 0].numpy()
    window = 1 / (1 + np.exp(-np.linspace(-9, 4, 16)))
    weight = np.exp(-(((np.arange(16) - 7.5) / (16 / 8)) ** 2) / 2)
    total, weights = np.zeros(24), np.zeros(24)
    for start in (0, 8):
        total[start : start + 16] += weight * window
        weights[start : start + 16] += weight
    np.testing.assert_allclose(found, np.broadcast_to(total / weights, found.shape), atol=1e-6)


def test_small_volumes_are_seen_as_they_are():
    model = Tiny(patch_size=(128, 128, 128))
    model.predict(np.random.default_rng(0).normal(size=(35, 50, 36)))
    assert model.sizes == [(1, 1, 35, 50, 36)]
    model = Tiny(patch_size=(16, 128, 16))
    model.predict(np.random.default_rng(0).normal(size=(8, 40, 32)))
    assert model.sizes == [(1, 1, 8, 40, 16)] * 3  # the window shrinks along the short axes


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_the_overlap_is_below_one(overlap, refused):
    with refused(segzoo.SegzooError):
        Tiny().predict(np.zeros((4, 4, 4)), overlap=overlap)


def test_more_overlap_is_more_windows():
    array = np.random.default_rng(0).normal(size=(16, 16, 16))
    counts = []
    for overlap in (0.0, 0.5, 0.75):
        model = Tiny(patch_size=(8, 8, 8))
        model.predict(array, overlap=overlap)
        counts.append(len(model.sizes))
    assert counts == [8, 27, 125]


def test_mirrors_average_over_all_eight_and_are_undone(scan):
    model = Tiny(patch_size=(128, 128, 128))
    batch = model.preprocessing(read_volume(scan))[None]
    with torch.no_grad():
        axes = [subset for count in range(4) for subset in itertools.combinations((2, 3, 4), count)]
        assert len(axes) == 8
        expected = sum(model.activate(model(batch.flip(subset))).flip(subset) for subset in axes) / 8
        found = predict_probabilities(model, batch, tta=True)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (found - predict_probabilities(model, batch)).abs().max() > 1e-3
        for subset in axes:
            mirrored = predict_probabilities(model, batch.flip(subset), tta=True).flip(subset)
            np.testing.assert_allclose(mirrored, found, atol=1e-6)


def test_only_axes_that_training_mirrored_are_mirrored(scan):
    model = Tiny(patch_size=(128, 128, 128), mirror_axes=[2])
    batch = model.preprocessing(read_volume(scan))[None]
    with torch.no_grad():
        expected = (model.activate(model(batch)) + model.activate(model(batch.flip(4))).flip(4)) / 2
        np.testing.assert_allclose(predict_probabilities(model, batch, tta=True), expected, atol=1e-6)


MEMORY = """
import resource, sys, torch
from tests.prediction.test_network import Tiny
from segzoo.prediction.torch_backend import predict_probabilities

torch.set_num_threads(1)
model = Tiny(num_classes=4, pointwise=True, patch_size=(16, 16, 16))
batch = torch.zeros(1, 1, 64, 64, 64)
peaks = []
with torch.inference_mode():
    for overlap in (0.5, 0.75):
        predict_probabilities(model, batch, overlap=overlap)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*(len(model.sizes), *peaks))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_windows():
    """Over one volume, 343 windows and then 2197, whose outputs together would fill 137 MiB."""
    repository = Path(__file__).parents[2]
    path = {
        "PYTHONPATH": f"{Path(segzoo.__file__).parents[1]}:{repository}:{repository / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "PATH": "",
    }
    done = processes.run([sys.executable, "-c", MEMORY], env=path, cwd=repository)
    assert done.returncode == 0, done.stderr
    windows, few, many = (float(value) for value in done.stdout.split())
    assert windows == 343 + 2197
    assert many - few < 40


# ---- models for images on volumes


def test_a_model_for_images_goes_through_a_volume_slice_by_slice(scan):
    model = segzoo.create_model("cmunext_s", num_classes=2).eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 48))
    volume = read_volume(scan)
    result = model.predict(scan)
    assert result.mask.shape == volume.geometry.shape
    assert result.probabilities.shape == (2, *volume.geometry.shape)
    low, high = np.percentile(volume.array, (0.5, 99.5))
    grey = np.round(np.clip((volume.array[0] - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    assert np.abs(to_uint8(volume.array[0]).astype(int) - grey).max() <= 1
    for index in (0, 9, len(grey) - 1):
        expected = model.predict(to_uint8(volume.array)[0, index]).probabilities
        np.testing.assert_allclose(result.probabilities[:, index], expected, atol=1e-5)
    np.testing.assert_array_equal(model.predict(volume.array).mask, result.mask)  # [C, D, H, W]
    assert max(result.overlay().size) > 500


def test_a_model_for_images_of_other_channels_refuses_a_volume(scan, refused):
    model = segzoo.create_model("cmunext_s", in_channels=5).eval()
    with refused(segzoo.SegzooError):
        model.predict(scan)


def test_constant_and_nearly_constant_volumes_have_a_range_too():
    assert (to_uint8(np.full((3, 3, 3), 7, np.float32)) == 0).all()
    spot = np.zeros((20, 20, 20), np.float32)
    spot[0, 0, 0] = 5
    assert to_uint8(spot)[0, 0, 0] == 255
    assert to_uint8(spot).sum() == 255


# ---- saving and drawing volumes


def test_multi_label_volumes_are_one_file_a_class(scan, tmp_path):
    model = Tiny(num_classes=2, multilabel=True)
    model.class_names = ("left lung", "heart")
    result = model.predict(scan)
    assert result.mask.shape == result.probabilities.shape
    result.save(tmp_path / "scan.1.nii.gz")
    assert {file.name for file in tmp_path.iterdir()} == {"scan.1_left-lung.nii.gz", "scan.1_heart.nii.gz"}
    np.testing.assert_array_equal(read_volume_mask(tmp_path / "scan.1_heart.nii.gz")[0], result.mask[1])
    assert result.foreground_names() == ("left lung", "heart")
    assert result.overlay().size[0] > 500


def test_a_volumes_mask_is_not_saved_as_a_picture(scan, tmp_path, refused):
    with refused(segzoo.SegzooError):
        Tiny().predict(scan).save(tmp_path / "mask.png")


def test_the_sheet_shows_slices_through_the_foreground():
    volume, mask = np.full((1, 40, 30, 20), 100, np.float32), np.zeros((40, 30, 20), np.uint8)
    volume[0, 0, 0, 0] = 200
    mask[10:13, 5:25, 5:15] = 1  # three axial slices
    geometry = Geometry.along_axes((40, 30, 20))
    names = ("background", "lesion")
    sheet = segzoo.Segmentation(mask, mask[None].astype(np.float32), names, volume, geometry).overlay()
    height, width = 224, round(224 * 20 / 30)
    assert sheet.size == (3 * width + 2 * 2, height)
    pixels = np.asarray(sheet)
    for panel in range(3):
        left = panel * (width + 2)
        assert (pixels[height // 2, left : left + width] == (230, 159, 0)).all(axis=1).sum() == 2  # the outline
    empty = segzoo.Segmentation(mask * 0, mask[None] * 0.0, names, volume, geometry).overlay()
    assert empty.size == (4 * width + 3 * 2, 3 * height + 2 * 2)  # slices through all of it


def test_the_sheet_is_cut_across_thick_slices_and_hung_as_radiologists_do():
    """A sagittal series: slices 5 mm apart from left to right, the front and the top of the head marked."""
    volume, mask = np.zeros((1, 6, 40, 50), np.float32), np.zeros((6, 40, 50), np.uint8)
    geometry = Geometry.along_axes((6, 40, 50), (5, 1, 1), "RIP")
    volume[0, :, :, :5] = 1  # anterior
    mask[:, :5] = 1  # superior
    result = segzoo.Segmentation(mask, mask[None].astype(np.float32), ("background", "top"), volume, geometry)
    pixels = np.asarray(result.overlay()).astype(int)
    height, width = round(224 * 40 / 50), 224
    assert pixels.shape[:2] == (2 * height + 2, 4 * width + 3 * 2)
    first = pixels[:height, :width]
    assert first[height - 5, 5].tolist() == [255] * 3  # anterior is left
    assert first[height - 5, width - 5].tolist() == [0] * 3
    assert first[2, width - 5].tolist() == [int(0.25 * c) for c in (230, 159, 0)]  # superior is up


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    array = np.random.default_rng(0).normal(size=(16, 16, 16))
    Tiny(patch_size=(8, 8, 8)).predict(array)
    windows = capsys.readouterr()
    segzoo.create_model("cmunext_s", in_channels=1).eval().predict(array[None, :, :, :])
    slices = capsys.readouterr()
    assert ("27/27" in windows.err) is terminal
    assert ("2/2" in slices.err) is terminal
    assert windows.out == slices.out == ""


def test_a_prediction_takes_a_volume_in_memory_with_its_place(scan):
    volume = read_volume(scan)
    depth, height, width = volume.geometry.shape
    place = Geometry.along_axes((height, width, depth), orientation="ARS")
    turned = Volume(volume.array.transpose(0, 2, 3, 1).copy(), place)
    assert turned.array.shape[1:] == turned.geometry.shape
    found, expected = Tiny().predict(turned), Tiny().predict(volume)
    np.testing.assert_allclose(found.probabilities, expected.probabilities.transpose(0, 2, 3, 1), atol=1e-5)
