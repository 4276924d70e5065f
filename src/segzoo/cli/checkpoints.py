"""``segzoo list``, ``info``, ``verify``, ``pull`` and ``push``."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from segzoo.cli.output import sentence
from segzoo.errors import SegzooError


def run_list(options: argparse.Namespace) -> None:
    """``segzoo list``."""
    from segzoo.hub.listing import checkpoint_folders, list_checkpoints, listing
    from segzoo.registry import list_models, models

    names, checkpoints = list_models(options.pattern), list_checkpoints(options.pattern)
    folders = checkpoint_folders()
    listed = {name: listing(name, folders.get(name)) for name in checkpoints}
    if options.json:
        print(json.dumps({"models": {name: vars(models()[name]) for name in names}, "checkpoints": listed}, indent=2))
        return
    print("models")
    for name in names:
        print(f"  {name:<16} {models()[name].parameters / 1e6:>7.2f} M  {models()[name].summary}")
    print("checkpoints")
    for name, facts in listed.items():
        print(f"  {name:<26} {checkpoint_line(facts)}")


def checkpoint_line(facts: dict[str, Any]) -> str:
    """One line on a checkpoint."""
    if "error" in facts:
        return f"not usable: {facts['error']}"
    dice = "not scored" if facts["dice"] is None else f"Dice {facts['dice']:.3f} ({facts['images']} held-out images)"
    weights, data = (facts["licences"].get(key) or "unlicensed" for key in ("weights", "data"))
    return (
        f"{facts['model']:<14} {facts['dataset'] or 'unknown data':<18} {dice}, "
        f"{(facts['parameters'] or 0) / 1e6:.2f} M parameters, "
        f"{facts['bytes'] / 1e6:.1f} MB, weights {weights}, data {data}, {facts['where']}"
    )


def run_info(options: argparse.Namespace) -> None:
    """``segzoo info NAME``."""
    from segzoo.hub.find import open_checkpoint
    from segzoo.registry import models

    if options.name not in models():
        print(json.dumps(open_checkpoint(options.name).config, indent=2))
        return
    import inspect

    from segzoo.registry import builder

    facts = models()[options.name]
    print(f"{facts.name}: {facts.summary}\n{facts.parameters:,} parameters; {facts.paper}\n")
    built = inspect.signature(builder(options.name)).return_annotation
    print(inspect.getdoc(built))


def run_verify(options: argparse.Namespace) -> None:
    """``segzoo verify [CHECKPOINT...]``.

    Raises:
        SegzooError: a checkpoint is damaged, or computes something else here; all others have been verified by then.
    """
    from segzoo.hub.listing import checkpoint_folders
    from segzoo.hub.verify import verify

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


def run_pull(options: argparse.Namespace) -> None:
    """``segzoo pull CHECKPOINT... --to DIR``."""
    from segzoo.hub.find import pull

    for name in options.checkpoints:
        print(f"{name} -> {pull(name, options.to, revision=options.revision)}")
    print(f"set SEGZOO_HUB={options.to} to use them where there is no network")


def run_push(options: argparse.Namespace) -> None:
    """``segzoo push FOLDER [REPO]``."""
    from segzoo.checkpoints.pins import organisation
    from segzoo.checkpoints.save import recording
    from segzoo.hub.publish import plan_upload, push

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
