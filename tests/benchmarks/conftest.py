"""Fixtures of the tests of benchmarks/."""

import subprocess
from typing import Any

import pytest

from segzoo import cli


class Finished:
    """A process that has ended; takes the place of `subprocess.Popen` for commands of segzoo."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.returncode = cli.main(command[command.index("segzoo.cli") + 1 :])

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode


@pytest.fixture
def commands_here(monkeypatch):
    """Commands of segzoo run in this process, which has imported torch; test_recipes starts real ones."""
    monkeypatch.setattr(subprocess, "Popen", Finished)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: Finished(command))
