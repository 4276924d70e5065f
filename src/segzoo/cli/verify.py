"""``segzoo verify``."""

import argparse
import sys

from segzoo.cli.output import sentence
from segzoo.errors import SegzooError
from segzoo.hub.listing import checkpoint_folders
from segzoo.hub.verify import verify


def run_verify(options: argparse.Namespace) -> None:
    """Run ``segzoo verify [CHECKPOINT...]``.

    Raises:
        SegzooError: a checkpoint is damaged, or computes something else here; all others have been verified by then.
    """
    names = options.checkpoints or sorted(checkpoint_folders())
    failures: list[str] = []
    for name in names:
        try:
            print(f"{name}: {verify(name)}")
        except SegzooError as error:
            failures.append(sentence(error))
            if len(names) > 1:
                print(f"segzoo: not verified: {failures[-1]}", file=sys.stderr)
    if failures:
        which = f"{len(failures)} of {len(names)} checkpoints could not be verified, the first because: "
        raise SegzooError((which if len(names) > 1 else "") + failures[0])
