"""Weights fetched from a stand-in for the Hub, through the real client."""

import sys

import pytest
import torch
from safetensors.torch import save

import processes
from hub_server import HubServer, client_environment

FETCH = """
import sys
from segzoo.errors import SegzooError
from segzoo.checkpoints.weights import parse_safetensors
from segzoo.models._fetched import fetch_weights
try:
    path, content = fetch_weights(sys.argv[1], "encoder.safetensors")
    print(*parse_safetensors(content, path))
except SegzooError as error:
    print("refused:", error)
"""


@pytest.fixture
def server():
    with HubServer() as server:
        server.add("some/weights", {"encoder.safetensors": save({"layer": torch.arange(1000.0)})})
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    def run(repository="some/weights", **environment):
        variables = client_environment(server.url, tmp_path) | environment
        command = [sys.executable, "-c", FETCH, repository]
        done = processes.run(command, env=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_weights_are_fetched_once_and_then_work_offline(server, fetch):
    assert fetch() == "layer"
    asked = len(server.requests)
    assert fetch() == "layer"
    assert len(server.requests) == asked
    assert fetch(HF_HUB_OFFLINE="1") == "layer"


def test_weights_damaged_on_their_way_are_refused(server, fetch):
    """Of the same size: the client itself sees nothing."""
    server.tamper("some/weights", "encoder.safetensors", save({"layer": torch.arange(1.0, 1001.0)}))
    for attempt in range(2):
        assert "is not the file that some/weights holds" in fetch(), attempt


def test_weights_that_cannot_be_fetched_are_one_sentence(fetch):
    for repository, environment in (("some/other", {}), ("some/weights", {"HF_HUB_OFFLINE": "1"})):
        assert f"could not be fetched from {repository}: " in fetch(repository, **environment)
