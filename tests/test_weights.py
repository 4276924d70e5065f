"""Weights fetched from a Hub: a local server that answers as the Hub does, through the real client."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save

FETCH = (
    "from segzoo.weights import fetch_weights, read_safetensors; print(*read_safetensors(fetch_weights({!r}, {!r})))"
)


class Hub:
    """One repository with one file, which the server may damage on its way."""

    def __init__(self, content: bytes) -> None:
        self.sent = content
        self.stated = hashlib.sha256(content).hexdigest()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()
                self.wfile.write(hub.sent)

            def answer(self) -> None:
                self.send_response(200 if self.path == "/some/weights/resolve/main/encoder.safetensors" else 404)
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", f'"{hub.stated}"')
                self.send_header("Content-Length", str(len(hub.sent)))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fetch(self, cache, repository: str = "some/weights", **environment: str) -> subprocess.CompletedProcess:
        address = f"http://127.0.0.1:{self.server.server_port}"
        return subprocess.run(
            [sys.executable, "-c", FETCH.format(repository, "encoder.safetensors")],
            env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache)} | environment,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def hub():
    hub = Hub(save({"layer": torch.arange(1000.0)}))
    yield hub
    hub.server.shutdown()


def test_weights_are_fetched_once_and_then_work_offline(hub, tmp_path):
    fetched = hub.fetch(tmp_path)
    assert fetched.stdout.split() == ["layer"], fetched.stderr
    assert hub.fetch(tmp_path, HF_HUB_OFFLINE="1").stdout.split() == ["layer"]


def test_weights_damaged_on_their_way_are_refused(hub, tmp_path):
    """Of the same size: the client itself sees nothing."""
    hub.sent = hub.sent[:-4] + b"oops"
    for attempt in range(2):  # fetched, then from the cache
        refused = hub.fetch(tmp_path)
        assert refused.returncode == 1, attempt
        assert "SegzooError: " in refused.stderr
        assert "is not the file that some/weights holds" in refused.stderr.splitlines()[-1]


def test_weights_that_cannot_be_fetched_are_one_sentence(hub, tmp_path):
    for repository, environment in (("some/other", {}), ("some/weights", {"HF_HUB_OFFLINE": "1"})):
        missing = hub.fetch(tmp_path, repository, **environment)
        assert missing.returncode == 1
        assert f"could not be fetched from {repository} (" in missing.stderr.splitlines()[-1]
