"""Rules that sizes of a training follow from."""

import pytest

from segzoo.data.planning import (
    MOST_BATCH,
    MOST_IMAGE,
    MOST_IMAGE_SLOW,
    Network,
    plan_images,
    plan_volumes,
    spacing_known,
    strides_for,
)

PLENTY = 2**40
FREE, FIXED = Network((16, 16, 16), 0, 10_000, halvings=4), Network((16, 16, 16), 0, 10_000)
FLAT = Network((32, 32), 0, 1000)


def named(reasons: list[str]) -> list[str]:
    return [reason.partition(" ")[0] for reason in reasons]


# ---- images


def test_images_keep_their_shape_in_multiples_of_the_stride():
    plan = plan_images([(200, 300), (220, 320), (1000, 1000)], FLAT, PLENTY, slow=False)
    assert plan.data == {"image_size": (224, 320), "batch_size": MOST_BATCH}
    assert named(plan.reasons) == ["image_size", "strides", "batch_size"]
    assert "220 x 320" in plan.reasons[0]


@pytest.mark.parametrize(("slow", "most"), [(False, MOST_IMAGE), (True, MOST_IMAGE_SLOW)])
def test_large_images_are_reduced_to_what_is_computed_in_time(slow, most):
    height, width = plan_images([(3000, 4000)], FLAT, PLENTY, slow=slow).data["image_size"]
    assert height * width == pytest.approx(most, rel=0.15)
    assert height / width == pytest.approx(0.75, rel=0.1)


def test_memory_limits_the_batch_first_and_then_the_image():
    assert plan_images([(256, 256)], FLAT, 1000 * 256**2 * 5, slow=False).data["batch_size"] == 5
    tight = plan_images([(256, 256)], FLAT, 1000 * 256**2, slow=False)
    height, width = tight.data["image_size"]
    assert height * width * 2 <= 256**2
    assert tight.data["batch_size"] >= 2
    assert "memory" in tight.reasons[0]
    assert plan_images([(256, 256)], FLAT, 1, slow=False).data == {"image_size": (32, 32), "batch_size": 1}


def test_what_is_given_stays_and_counts():
    assert "image_size" not in plan_images([(9, 9)], FLAT, PLENTY, slow=False, image_size=(64, 64)).data
    given = plan_images([(256, 256)], FLAT, 1000 * 256**2 * 8, slow=False, batch_size=32)
    assert set(given.data) == {"image_size"}
    assert given.data["image_size"][0] * given.data["image_size"][1] * 32 <= 256**2 * 8


# ---- volumes


@pytest.mark.parametrize(
    ("shape", "spacing", "patch", "strides"),
    [
        ((36, 50, 35), (1.0, 1.0, 1.0), (40, 56, 40), [[2, 2, 2]] * 3 + [[1, 1, 1]]),
        ((12, 200, 180), (10.0, 1.5, 1.5), (12, 208, 192), [[1, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2]]),
        ((9, 128, 108), (1.0, 2.0, 2.0), (10, 128, 112), [[1, 2, 2]] * 3 + [[2, 2, 2]]),  # the header cannot be right
        ((500, 512, 512), (0.8, 0.8, 0.8), (128, 128, 128), [[2, 2, 2]] * 4),
    ],
    ids=["isotropic", "thick slices", "unknown spacing", "large"],
)
def test_patch_and_strides_follow_shape_and_spacing(shape, spacing, patch, strides):
    plan = plan_volumes([shape] * 200, [spacing] * 200, FREE, PLENTY)
    assert plan.data["patch_size"] == patch
    assert plan.strides == strides
    assert plan.data.get("spacing") == (spacing if spacing_known([shape], [spacing]) else None)
    assert named(plan.reasons)[-3:] == ["patch_size", "strides", "batch_size"]


def test_sides_hold_whole_strides_and_memory_holds_a_batch_of_two():
    for memory in (2**30, 2**32, 2**34):
        plan = plan_volumes([(120, 512, 512)] * 90, [(3.0, 0.8, 0.8)] * 90, FREE, memory)
        depth, height, width = plan.data["patch_size"]
        for axis, side in enumerate((depth, height, width)):
            steps = 1
            for stride in plan.strides:
                steps *= stride[axis]
            assert side % steps == 0
            assert side // steps >= 4
        assert plan.data["batch_size"] * depth * height * width * 10_000 <= memory
        assert plan.data["batch_size"] >= 2
        assert "memory" in plan.reasons[1]


def test_a_network_of_fixed_strides_keeps_them():
    plan = plan_volumes([(36, 50, 35)] * 200, [(1.0, 1.0, 1.0)] * 200, FIXED, PLENTY)
    assert plan.strides is None
    assert plan.data["patch_size"] == (48, 64, 48)


def test_the_spacing_is_the_median_and_of_thick_slices_a_finer_one():
    spacings = [(5.0, 0.8, 0.8)] * 7 + [(2.5, 0.7, 0.7)] * 3 + [(8.0, 1.0, 1.0)] * 9
    plan = plan_volumes([(20, 400, 400)] * 19, spacings, FREE, PLENTY)
    assert plan.data["spacing"] == (2.5, 0.8, 0.8)
    even = plan_volumes([(100, 100, 100)] * 3, [(1.0, 1.0, 2.0), (1.0, 1.0, 1.5), (1.0, 1.0, 1.0)], FREE, PLENTY)
    assert even.data["spacing"] == (1.0, 1.0, 1.5)


def test_a_batch_sees_no_more_than_a_twentieth_of_small_data():
    assert plan_volumes([(32, 32, 32)] * 200, [(1.0,) * 3] * 200, FREE, PLENTY).data["batch_size"] == MOST_BATCH
    assert plan_volumes([(32, 32, 32)] * 80, [(1.0,) * 3] * 80, FREE, PLENTY).data["batch_size"] == 4
    assert plan_volumes([(32, 32, 32)] * 3, [(1.0,) * 3] * 3, FREE, PLENTY).data["batch_size"] == 2


def test_strides_wait_for_thick_voxels():
    assert strides_for((64, 64, 64), (4.0, 1.0, 1.0), 4) == [[1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert strides_for((4, 4, 4), (1.0, 1.0, 1.0), 2) == [[1, 1, 1], [1, 1, 1]]


def test_a_given_spacing_and_that_of_a_checkpoint_are_kept():
    shapes, spacings = [(40, 40, 40)] * 9, [(2.0, 2.0, 2.0)] * 9
    assert plan_volumes(shapes, spacings, FREE, PLENTY, spacing=(1.0, 1.0, 1.0)).data["patch_size"] == (80, 80, 80)
    assert "spacing" not in plan_volumes(shapes, spacings, FREE, PLENTY, resample=False).data
