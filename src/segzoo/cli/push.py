"""``segzoo push``."""

import argparse
from dataclasses import replace

from segzoo.checkpoints.pins import organisation
from segzoo.checkpoints.save import recording
from segzoo.hub.publish import plan_upload, push


def run_push(options: argparse.Namespace) -> None:
    """Run ``segzoo push FOLDER [REPO]``."""
    repository = options.repository or f"{organisation()}/{options.folder.resolve().name}"
    upload = plan_upload(options.folder, repository, options.version)
    print(upload)
    if options.dry_run:
        return
    if options.version is not None:
        with recording(options.folder, version=options.version) as draft:  # kept where it could be published
            address = push(replace(upload, folder=draft), private=options.private)
    else:
        address = push(upload, private=options.private)
    print(f"published at {address}")
