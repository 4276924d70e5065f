"""Building blocks that more than one architecture needs."""

from segzoo.nn.wkv import bi_wkv

__all__ = ["bi_wkv"]
