"""Reference of the command line, written from its parsers."""

import argparse
import re
from collections.abc import Iterator
from functools import cache

from segzoo.cli.command import TRAINING_VERBS, build_parser
from segzoo.cli.train import TrainingCLI
from segzoo.cli.tune import build_parser as tune_parser

# options that come from LightningCLI, whose own help is of any program's and not of this one's
LIGHTNINGS = {
    "--model": "A model of `segzoo list`, a checkpoint, or a checkpoint's folder. `--model.NAME VALUE` sets an "
    "argument of its [class](models.md), or of [from_pretrained](use.md#segzoo.from_pretrained) for a checkpoint",
    "--data": "A dataset by its name. `--data.NAME VALUE` sets an argument of its [class](data.md), as in "
    "`--data.root mine/`",
    "--trainer": "`--trainer.NAME VALUE` sets an argument of Lightning's `Trainer`, as in `--trainer.max_epochs 100`",
    "--optimizer": "A class of `torch.optim` in place of the model's own; `--optimizer.NAME VALUE` sets its arguments",
    "--lr_scheduler": "A class of `torch.optim.lr_scheduler` likewise",
    "--config": "Options from a file, such as a run's `train.yaml`; those that stand after it replace them",
    "--print_config": "Print all options as such a file, and stop",
    "--seed_everything": "Seed of the training (default 42)",
    "--ckpt_path": "Lightning's file of a run: a path, or `last` or `best` for those in the run's folder; `last` lets "
    "`fit` go on where it stopped",
    "--verbose": "Also print Lightning's own table of results",
    "--weights_only": "Always true: a file that holds code is not run",
}
NAMES = {"auto", "ray", "onnx", "float32", "user/repo"}  # which are written small
_MARKDOWN = re.compile(r"([\\`*_{}<>\[\]])")
HIDDEN = {"--help", "==SUPPRESS=="}


def reference() -> str:
    """Return the verbs, a heading for each, which follow on what docs/reference/commands.md says."""
    return "\n".join(_verb(name, text, parser) for name, text, parser in verbs())


def verbs() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield the verbs, each with what it does and the parser of its options."""
    (listed,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    training = {**training_parsers(), "tune": tune_parser()}
    texts = {choice.dest: choice.help or "" for choice in listed._choices_actions}
    for name, parser in listed.choices.items():
        yield name, TRAINING_VERBS.get(name, texts[name]), training.get(name, parser)


@cache
def training_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs that LightningCLI does, without doing any."""
    parsers: dict[str, argparse.ArgumentParser] = {}

    class Looked(TrainingCLI):
        def parse_arguments(self, parser: object, args: object) -> None:
            parsers.update(self._subcommand_parsers)
            raise InterruptedError

    try:
        Looked([])
    except InterruptedError:
        return parsers
    raise AssertionError("LightningCLI parses its command line elsewhere now")


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Yield positional arguments and options by their long names, without those below a dot, such as --data.root."""
    for action in parser._actions:
        name = next((option for option in action.option_strings if option.startswith("--")), action.dest)
        if "." not in name and name not in HIDDEN:
            yield name, action


def _verb(name: str, text: str, parser: argparse.ArgumentParser) -> str:
    options = list(options_of(parser))
    needed = [_written(option, action) for option, action in options if action.required or not action.option_strings]
    usage = " ".join(["segzoo", name, *needed, *["[OPTIONS]"] * (len(needed) < len(options))])
    rows = [
        f"`{_written(option, action)}`{{ #{name}.{option.lstrip('-')} }}\n:   {_meaning(option, action, name)}.\n"
        for option, action in options
    ]
    heading = f"## segzoo {name} {{ #{name} }}"
    return "\n".join([heading, "", _sentence(text) + ".", "", f"```text\n{usage}\n```", "", *rows])


def _written(option: str, action: argparse.Action) -> str:
    """Return how an option stands in a command line."""
    value = option.lstrip("-").upper() if action.metavar is None or "|" in str(action.metavar) else action.metavar
    if isinstance(value, tuple):
        value = " ".join(value)
    elif isinstance(action.choices, list):
        value = "{" + ",".join(action.choices) + "}"
    value = {"?": f"[{value}]", "*": f"[{value}...]", "+": f"{value}...", "0": "", "1": ""}.get(
        str(action.nargs), value
    )
    return " ".join(filter(None, [option, value])) if action.option_strings else value


def _meaning(option: str, action: argparse.Action, verb: str) -> str:
    if verb in TRAINING_VERBS and option in LIGHTNINGS:
        return LIGHTNINGS[option]
    text = _sentence(_MARKDOWN.sub(r"\\\1", (action.help or "").replace("%%", "%")))
    if verb in TRAINING_VERBS and action.default not in (None, argparse.SUPPRESS):
        text += f" (default {str(action.default).lower()})"
    return text


def _sentence(text: str) -> str:
    """Return a text as the begin of a sentence, which may begin with a name."""
    first = text.partition(" ")[0].rstrip(":,")
    return (text if first in NAMES else text[:1].upper() + text[1:]).rstrip(".")
