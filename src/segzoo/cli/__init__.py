"""The ``segzoo`` command."""

from segzoo.cli.command import main as main
