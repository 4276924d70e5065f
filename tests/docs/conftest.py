"""What was not run, counted at the end of `make docs-test`."""

from collections import Counter

import pytest
from pages import PAGES, code_of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--all-blocks"):
        blocks = [(page, block) for page in PAGES for block in code_of(page)]
        marks = Counter(block.mark for _, block in blocks)
        run, not_run = len(blocks) - marks["not run"], marks["not run"]
        terminalreporter.write_line(f"{run} blocks of code run, {marks['long']} of them here alone; {not_run} not run:")
        for page, block in blocks:
            if block.mark == "not run":
                terminalreporter.write_line(f"{page.name}:{block.line} {block.reason}")
