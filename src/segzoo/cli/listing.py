"""``segzoo list`` and ``info``."""

import argparse
import inspect
import json
from typing import Any

from segzoo.hub.find import open_stored
from segzoo.hub.listing import checkpoint_folders, list_checkpoints, list_encoders, listing
from segzoo.registry import class_of, list_models, model_facts, models, package_of


def run_list(options: argparse.Namespace) -> None:
    """Run ``segzoo list``."""
    names, checkpoints = list_models(options.pattern), list_checkpoints(options.pattern)
    folders = checkpoint_folders()
    listed = {name: listing(name, folders.get(name)) for name in checkpoints}
    encoders = {name: listing(name, folders.get(name)) for name in list_encoders(options.pattern)}
    if options.json:
        entries = {"models": {name: model_entry(name) for name in names}, "checkpoints": listed, "encoders": encoders}
        print(json.dumps(entries, indent=2))
        return
    print("models")
    for name in names:
        print(f"  {name:<16} {model_line(name)}")
    print("checkpoints")
    for name, facts in listed.items():
        print(f"  {name:<26} {checkpoint_line(facts)}")
    if encoders:
        print("encoders")
    for name, facts in encoders.items():
        print(f"  {name:<26} {encoder_line(facts)}")


def model_entry(name: str) -> dict[str, Any]:
    """Return what is known of a model without importing anybody's package."""
    return vars(models()[name]) if name in models() else {"name": name, "package": package_of(name)}


def model_line(name: str) -> str:
    """Return one line on a model."""
    if name not in models():
        return f"of the package {package_of(name)}"
    return f"{models()[name].parameters / 1e6:>7.2f} M  {models()[name].summary}"


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


def encoder_line(facts: dict[str, Any]) -> str:
    """Return one line on an encoder."""
    if "error" in facts:
        return f"not usable: {facts['error']}"
    nearest = facts["scores"].get("nearest_neighbour")
    scores = "not scored, " if nearest is None else f"nearest neighbour {nearest:.3f}, "
    return (
        f"{facts['encoder']:<14} {scores}{(facts['parameters'] or 0) / 1e6:.2f} M parameters, "
        f"{facts['bytes'] / 1e6:.1f} MB, weights {facts['licences'].get('weights') or 'unlicensed'}, {facts['where']}"
    )


def run_info(options: argparse.Namespace) -> None:
    """Run ``segzoo info NAME``."""
    if options.name not in list_models():
        print(json.dumps(open_stored(options.name).config.entries, indent=2))
        return

    facts = model_facts(options.name)
    print(f"{facts.name}: {facts.summary}\n{facts.parameters:,} parameters; {facts.paper}\n")
    print(inspect.getdoc(class_of(options.name)) or "")
