"""``segzoo verify``."""

import argparse

from segzoo.cli.output import each_apart
from segzoo.hub.listing import checkpoint_folders
from segzoo.hub.verify import verify


def run_verify(options: argparse.Namespace) -> None:
    """Run ``segzoo verify [CHECKPOINT...]``.

    Raises:
        SegzooError: a checkpoint is damaged, or computes something else here; all others have been verified by then.
    """
    names = options.checkpoints or sorted(checkpoint_folders())
    each_apart(names, lambda name: f"{name}: {verify(name)}", "checkpoints", "verified")
