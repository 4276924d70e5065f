"""The ``segzoo`` command."""

from segzoo.cli.main import main as main
