"""Run a page's blocks in order, in a folder of samples: `python run_page.py PAGE FOLDER [--all]`.

Commands of segzoo are calls of `cli.main`, blocks of Python share the page's names, and `export` lasts to the page's
end. A training is short, and starts where no earlier block has left a run.
"""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning import Trainer
from pages import ROOT, Block, code_of, shell_lines
from scratch import lay_out

from segzoo import cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
BRIEF = QUIET | {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
SMALL = {"fit": "--data.image_size 32", "export": "--size 256 256"}


class WrongBlockError(Exception):
    """A block that does not do what it says, and where."""


def main() -> None:
    """Run them."""
    page, folder, everything = Path(sys.argv[1]), Path(sys.argv[2]), "--all" in sys.argv
    lay_out(folder)
    os.chdir(folder)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    names: dict[str, object] = {}
    for block in code_of(page):
        if block.mark == "not run" or (block.mark == "long" and not everything):
            continue
        began = time.process_time()
        try:
            if block.language == "shell":
                run_shell(block, everything)
            else:
                run_python(block, page, names)
        except (Exception, SystemExit):
            traceback.print_exc()
            sys.exit(f"{page.name}:{block.line}: this block fails")
        print(f"{page.name}:{block.line}: ran, {time.process_time() - began:.1f} s of processor time", flush=True)
    print(f"{page.name}: {time.process_time():.1f} s in all")


def run_python(block: Block, page: Path, names: dict[str, object]) -> None:
    """Run a block of Python, a script or a session with what it prints, with Trainers that take one step."""

    def begin(trainer: Trainer, **options: Any) -> None:
        whole(trainer, **options | BRIEF)

    whole = Trainer.__init__
    with patch.object(Trainer, "__init__", begin):
        if block.code.startswith(">>> "):
            test = doctest.DocTestParser().get_doctest(block.code, names, page.name, str(page), block.line - 1)
            if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed:
                raise WrongBlockError(f"line {block.line}")
            names.update(test.globs)
        else:
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)


def run_shell(block: Block, everything: bool) -> None:
    """Run a block's commands, one by one."""
    for number, line in shell_lines(block.code):
        first, *words = shlex.split(line, comments=True)
        where = f"line {block.line + number}: {line}"
        if first == "segzoo":
            if cli.main(shortened(words, everything)) != 0:
                raise WrongBlockError(where)
        elif first == "export":
            os.environ.update(word.split("=", 1) for word in words)
        elif first == "pip":
            require_offered(words, where)
        elif subprocess.run(["bash", "-ec", line]).returncode != 0:
            raise WrongBlockError(where)


def shortened(words: list[str], everything: bool) -> list[str]:
    """Return a command that takes seconds: what a page says of epochs is not what its test is about."""
    verb, *options = words
    if verb == "fit" and "--ckpt_path" not in options:
        remove_run_of(options)
    trainer = {"fit": BRIEF, "test": QUIET}.get(verb, {})
    added = [word for name, value in trainer.items() for word in (f"--trainer.{name}", str(value).lower())]
    if not everything and not {"Decathlon", "-c"} & set(options):
        added += SMALL.get(verb, "").split()
    return words + added


def remove_run_of(options: list[str]) -> None:
    """Remove the run that an earlier command has left where this one would write, which is refused for good reason."""
    named = {option: options[options.index(option) + 1] for option in ("--model", "--data") if option in options}
    if len(named) == 2:
        for run in Path("runs").glob(f"{named['--model']}-{named['--data'].lower()}*"):
            shutil.rmtree(run)


def require_offered(words: list[str], where: str) -> None:
    """Refuse an installation by pip, which needs a network and is not done, of what this project does not offer."""
    for word in words[1:]:
        asked = re.fullmatch(r"(\.|medsegzoo)(?:\[(.+)\])?", word)
        if asked is None:
            if not word.startswith("-"):
                raise WrongBlockError(f"{where}: {word} is not of this project; mark the block as not run")
        elif not set((asked[2] or "").split(",")) - {""} <= set(PROJECT["optional-dependencies"]):
            raise WrongBlockError(f"{where}: there is no such extra")


if __name__ == "__main__":
    main()
