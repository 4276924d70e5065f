import torch
from torch.testing import assert_close
from torchvision import tv_tensors

from segzoo.data.augmentation import RandomFlipRotate90


def pair(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image and a mask with the same content, so that any move shows; -1 marks ignored pixels."""
    content = torch.arange(height * width).reshape(height, width)
    return tv_tensors.Image(content.to(torch.uint8).repeat(3, 1, 1)), tv_tensors.Mask(content.clone())


def test_image_and_mask_move_together_in_all_eight_ways():
    torch.manual_seed(0)
    image, mask = pair(8, 8)
    seen = set()
    for _ in range(200):
        moved_image, moved_mask = RandomFlipRotate90()(image, mask)
        assert_close(torch.as_tensor(moved_image[0]).long(), torch.as_tensor(moved_mask))
        seen.add(tuple(moved_mask.flatten().tolist()))
    assert len(seen) == 8


def test_an_oblong_image_keeps_its_shape():
    torch.manual_seed(0)
    image, mask = pair(4, 6)
    seen = set()
    for _ in range(100):
        moved_image, moved_mask = RandomFlipRotate90()(image, mask)
        assert moved_image.shape == image.shape
        assert_close(torch.as_tensor(moved_image[0]).long(), torch.as_tensor(moved_mask))
        seen.add(tuple(moved_mask.flatten().tolist()))
    assert len(seen) == 4


def test_torch_seeds_it():
    def moved(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [torch.as_tensor(RandomFlipRotate90()(*pair(4, 4))[1]) for _ in range(10)]

    assert_close(moved(1), moved(1))
    assert any((a != b).any() for a, b in zip(moved(1), moved(2), strict=True))


def test_multi_label_and_ignored_survive():
    image, _ = pair(4, 4)
    mask = tv_tensors.Mask(torch.stack([torch.full((4, 4), -1), torch.eye(4).long()]))
    moved = RandomFlipRotate90()(image, mask)[1]
    assert moved.shape == (2, 4, 4)
    assert (moved[0] == -1).all()
    assert moved[1].sum() == 4
