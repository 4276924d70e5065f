"""Find, fetch, load, verify and publish checkpoints: in a folder, a mirror, the package, or on the Hugging Face Hub."""

from typing import TYPE_CHECKING

from segzoo.lazy import lazily

if TYPE_CHECKING:
    from segzoo.hub.find import open_checkpoint as open_checkpoint
    from segzoo.hub.find import pull as pull
    from segzoo.hub.listing import list_checkpoints as list_checkpoints
    from segzoo.hub.load import from_pretrained as from_pretrained

__getattr__ = lazily(
    __name__,
    {
        "from_pretrained": "segzoo.hub.load",
        "list_checkpoints": "segzoo.hub.listing",
        "open_checkpoint": "segzoo.hub.find",
        "pull": "segzoo.hub.find",
    },
)
