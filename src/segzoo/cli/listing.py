"""``segzoo list`` and ``info``."""

import argparse
import inspect
import json
from typing import Any

from segzoo.hub.find import open_checkpoint
from segzoo.hub.listing import checkpoint_folders, list_checkpoints, listing
from segzoo.registry import builder, list_models, models


def run_list(options: argparse.Namespace) -> None:
    """Run ``segzoo list``."""
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
    """Return one line on a checkpoint."""
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
    """Run ``segzoo info NAME``."""
    if options.name not in models():
        print(json.dumps(open_checkpoint(options.name).config.entries, indent=2))
        return

    facts = models()[options.name]
    print(f"{facts.name}: {facts.summary}\n{facts.parameters:,} parameters; {facts.paper}\n")
    built = inspect.signature(builder(options.name)).return_annotation
    print(inspect.getdoc(built))
