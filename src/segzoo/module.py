"""SegmentationModule: the five verbs on a model."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from torch import Tensor

from segzoo.checkpoints.save import save_pretrained
from segzoo.errors import SegzooError
from segzoo.export.write import Exported, export
from segzoo.hub.load import from_pretrained
from segzoo.hub.publish import plan_upload, push
from segzoo.imaging.segmentation import Segmentation
from segzoo.prediction.torch_backend import predict
from segzoo.steps import SegmentationSteps

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from segzoo.imaging.volumes import Volume


class SegmentationModule(SegmentationSteps):
    """Base of all architectures, a LightningModule. Subclasses define :meth:`compute_logits` and their recipe.

    A model is found, loaded, used, trained and given away by its own methods and the package's functions; what it
    takes and holds is documented in :class:`segzoo.network.SegmentationNetwork`, how it is trained and scored in
    :class:`segzoo.steps.SegmentationSteps`.

    Example:
        >>> import torch, segzoo
        >>> class Smallest(segzoo.SegmentationModule):
        ...     def __init__(self):
        ...         super().__init__(in_channels=1)
        ...         self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        ...     def compute_logits(self, x):
        ...         return self.layer(x)
        >>> import numpy as np
        >>> Smallest().predict(np.zeros((40, 60), np.uint8)).mask.shape
        (40, 60)
    """

    @overload
    def predict(self, image: "list[Any]", *, tta: bool = ..., overlap: float = ...) -> list[Segmentation]: ...

    @overload
    def predict(
        self, image: "str | Path | Image | np.ndarray | Tensor | Volume", *, tta: bool = ..., overlap: float = ...
    ) -> Segmentation: ...

    def predict(self, image: Any, *, tta: bool = False, overlap: float = 0.5) -> Segmentation | list[Segmentation]:
        """Segment one image or volume, or a list of them; the model's own preprocessing does all that they need.

        The model's fused form, which computes it, is kept for the next call, until anything of the model changes; it
        takes as much memory as the model does. ``model.train()`` lets go of it. For what is made of frames one after
        another see :class:`segzoo.Predictor`.

        Args:
            image: a path, a PIL image, an array [H, W] or [H, W, C] or a tensor [C, H, W]. For volumes: a path (NIfTI,
                NRRD, MHA), what :func:`segzoo.volumes.read_volume` gives, an array or tensor [D, H, W] or [C, D, H, W],
                which is taken to have the orientation and spacing that the model wants. A model for images goes
                through a volume (an array of one: [C, D, H, W]) slice by slice. Or a list of such.
            tta: average over mirrored copies.
            overlap: of the windows that a volume is segmented in, as part of their length.

        Returns:
            mask and probabilities on the image's or volume's own grid; of a list a list, in its order.

        Raises:
            SegzooError: an image cannot be read or does not fit the model.
        """
        found: Segmentation | list[Segmentation] = predict(self, image, tta=tta, overlap=overlap)
        return found

    def save_pretrained(self, folder: str | Path, **details: Any) -> Path:
        """Write this model as a checkpoint folder; see :func:`segzoo.checkpoints.save.save_pretrained`."""
        return save_pretrained(self, folder, **details)

    def export(self, path: str | Path, **options: Any) -> Exported:
        """Write this model as an ONNX or torch.export file, checked; see :func:`segzoo.export.write.export`."""
        return export(self, path, **options)

    def push_to_hub(
        self, repository: str, *, private: bool = False, token: str | bool | None = None, **details: Any
    ) -> str:
        """Publish this model on the Hugging Face Hub, in one commit and tagged with its version.

        Args:
            repository: ``user/repo``; created where it is not there.
            private: whether a new repository is.
            token: that may write there; None is that of `hf auth login`.
            **details: as of :func:`segzoo.checkpoints.save.save_pretrained`.

        Returns:
            The commit's address.

        Raises:
            SegzooError: the Hub does not allow it, or has this version with other content.
            MissingError: the Hub cannot be reached.
        """
        with tempfile.TemporaryDirectory() as draft:
            folder = self.save_pretrained(Path(draft) / repository.rpartition("/")[2], **details)
            return push(plan_upload(folder, repository), private=private, token=token)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **arguments: Any) -> Self:
        """Load a checkpoint of this architecture; see :func:`segzoo.from_pretrained`.

        Raises:
            SegzooError: the checkpoint holds another architecture.
        """
        model = from_pretrained(name_or_path, **arguments)
        if not isinstance(model, cls):
            raise SegzooError(
                f"checkpoint {name_or_path} holds a {type(model).__name__}, not a {cls.__name__}; load it with "
                "segzoo.from_pretrained"
            )
        return model

    @classmethod
    def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Self:
        """Load Lightning's own file, for classes whose files hold their arguments.

        Raises:
            SegzooError: the file does not hold what the model was built with, as those of the zoo's models do not.
        """
        try:
            return super().load_from_checkpoint(*arguments, **options)
        except (TypeError, RuntimeError) as error:
            raise SegzooError(
                f"Lightning's file does not say how this {cls.__name__} was built: build the model, load the file by "
                "trainer.validate(model, data, ckpt_path=FILE), and keep it by model.save_pretrained(FOLDER)"
            ) from error
