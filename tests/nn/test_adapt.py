import pytest
import torch

from segzoo.nn.adapt import adapt_input_channels


def test_a_grey_image_gives_what_it_gave_as_rgb():
    weight, grey = torch.randn(4, 3, 3, 3), torch.randn(1, 1, 8, 8)
    expected = torch.nn.functional.conv2d(grey.expand(1, 3, 8, 8), weight)
    torch.testing.assert_close(torch.nn.functional.conv2d(grey, adapt_input_channels(weight, 1)), expected)


@pytest.mark.parametrize(("old", "new"), [(3, 6), (1, 3), (2, 4)])
def test_repeated_channels_give_the_same_response(old, new):
    weight, image = torch.randn(4, old, 3, 3), torch.randn(1, old, 8, 8)
    repeated = image.repeat(1, new // old, 1, 1)
    torch.testing.assert_close(
        torch.nn.functional.conv2d(repeated, adapt_input_channels(weight, new)),
        torch.nn.functional.conv2d(image, weight),
    )


def test_the_same_number_of_channels_changes_nothing():
    weight = torch.randn(4, 3, 3, 3)
    assert adapt_input_channels(weight, 3) is weight
    assert adapt_input_channels(weight, 5).shape == (4, 5, 3, 3)
