"""Published sizes of Vision-RWKV."""

from dataclasses import dataclass
from typing import Any

from segzoo.nn.vrwkv import VisionRWKV
from segzoo.nn.vrwkv_adapter import VRWKVAdapter


@dataclass(frozen=True)
class EncoderSize:
    """Numbers of one published Vision-RWKV, mostly in the words of its configurations.

    Attributes:
        embed_dims: channels.
        drop_path_rate: of the original's segmentation training.
        plain_scale: where the layer scales of the plain form start; None: it has none.
        adapter_scale: where those of the adapter form start.
        depth: blocks.
        img_size: of the pretraining.
        post_norm: see :class:`VisionRWKV`.
        key_norm: likewise.
        deform_num_heads: see :class:`VRWKVAdapter`.
        deform_ratio: likewise.
    """

    embed_dims: int
    drop_path_rate: float
    plain_scale: float | None
    adapter_scale: float
    depth: int = 12
    img_size: int = 224
    post_norm: bool = True
    key_norm: bool = False
    deform_num_heads: int = 6
    deform_ratio: float = 1.0

    def build(self, form: str, in_channels: int, drop_path_rate: float | None) -> VisionRWKV:
        """Build the encoder of this size: "plain", tapped after each quarter of its blocks, or "adapter"."""
        quarter = self.depth // 4
        common: dict[str, Any] = {
            "in_channels": in_channels,
            "img_size": self.img_size,
            "embed_dims": self.embed_dims,
            "depth": self.depth,
            "post_norm": self.post_norm,
            "key_norm": self.key_norm,
            "drop_path_rate": self.drop_path_rate if drop_path_rate is None else drop_path_rate,
        }
        if form == "plain":
            taps = [quarter * number - 1 for number in range(1, 5)]
            return VisionRWKV(**common, init_values=self.plain_scale, out_indices=taps)
        return VRWKVAdapter(
            **common,
            init_values=self.adapter_scale,
            deform_num_heads=self.deform_num_heads,
            deform_ratio=self.deform_ratio,
            interaction_indexes=[(quarter * number, quarter * (number + 1) - 1) for number in range(4)],
        )


ENCODERS = {
    "tiny": EncoderSize(192, 0.1, plain_scale=None, adapter_scale=1.0, post_norm=False),
    "small": EncoderSize(384, 0.2, plain_scale=1.0, adapter_scale=1e-5),
    "base": EncoderSize(768, 0.3, plain_scale=1e-5, adapter_scale=1e-5, deform_num_heads=12, deform_ratio=0.5),
    "large": EncoderSize(
        embed_dims=1024,
        drop_path_rate=0.4,
        plain_scale=1e-5,
        adapter_scale=1e-5,
        depth=24,
        img_size=192,
        key_norm=True,
        deform_num_heads=16,
        deform_ratio=0.5,
    ),
}
