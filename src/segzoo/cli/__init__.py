"""Command line: ``segzoo``."""

from segzoo.cli.command import main as main
