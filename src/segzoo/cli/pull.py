"""``segzoo pull``."""

import argparse
from functools import partial

from segzoo.cli.output import each_apart
from segzoo.hub.find import pull


def run_pull(options: argparse.Namespace) -> None:
    """Run ``segzoo pull CHECKPOINT... --to DIR``.

    Raises:
        SegzooError: one could not be fetched; all others have been by then.
    """
    fetch = partial(pull, target=options.to, revision=options.revision)
    each_apart(options.checkpoints, lambda name: f"{name} -> {fetch(name)}", "checkpoints", "fetched")
    print(f"set SEGZOO_HUB={options.to} to use them where there is no network")
