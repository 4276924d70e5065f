"""Networks with a second form that is fused and only predicts."""

import copy
from typing import Any, Self

import torch
from torch import nn

from segzoo.nn.kept import HANGS_ON, Kept
from segzoo.nn.weights import work_out_weights


class Deployable(nn.Module):
    """Base of networks that have such a form.

    Attributes:
        spatial_dims: 2 of a network for images, 3 of one for volumes.
    """

    spatial_dims: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept: Kept[Self] = Kept()

    def deploy(self) -> Self:
        """Return a new, fused, eval-only copy of this model that computes the same function."""
        # a copy of the network must not copy the Trainer that it may still hang on
        copied = copy.deepcopy(self, {id(vars(self).get(name)): None for name in HANGS_ON})
        work_out_weights(copied.eval())
        copied.fuse()
        copied.to(memory_format=self.memory_format)
        return copied.requires_grad_(False)

    def deployed_form(self) -> Self:
        """Return what :meth:`deploy` gives, which is kept, and made anew where anything of this model has changed.

        Its weights take as much memory again, until this model goes, moves or is trained.
        """
        return self._kept.of(self, self.deploy)

    def train(self, mode: bool = True) -> Self:
        """Go into training mode, or out of it; the deployed form would not stay true for long."""
        if mode:
            self._kept.forget()
        return super().train(mode)

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        """Move or convert; the deployed form would keep memory on the device that this model leaves."""
        self._kept.forget()
        return super()._apply(*arguments, **options)

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of the weights, always the same, so that a model gives the same bits trained and loaded.

        For images it is a third faster on CPUs, and slower for none of the zoo's.
        """
        return torch.channels_last if self.spatial_dims == 2 else torch.preserve_format

    def fuse(self) -> None:
        """Fold what can be folded exactly, in place."""

    @property
    def is_deployable(self) -> bool:
        """True where :meth:`deploy` keeps what the model computes as it is now."""
        return True
