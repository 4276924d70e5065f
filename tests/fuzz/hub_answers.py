"""Hubs whose answers are others than what was asked for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from tests import hub_server
from tests.fuzz.edits import BytesEdit, JsonEdit, bytes_edits, edit_bytes, edit_json, json_edits
from tests.fuzz.materials import checkpoint
from tests.fuzz.oracle import HOME, Order

from segzoo.checkpoints.names import CARD, CONFIG

NAME = "stranger/tiny"
STATUSES = (
    100,
    200,
    204,
    206,
    301,
    302,
    304,
    307,
    400,
    401,
    403,
    404,
    408,
    410,
    416,
    418,
    429,
    451,
    500,
    503,
    599,
    999,
)
HEADERS = (
    ("ETag", ""), ("ETag", '"x"'), ("ETag", '"../../x"'), ("ETag", '"' + "x" * 5000 + '"'), ("ETag", None),
    ("X-Repo-Commit", ""), ("X-Repo-Commit", "../../../x"), ("X-Repo-Commit", "0" * 40), ("X-Repo-Commit", None),
    ("Content-Length", "0"), ("Content-Length", "-1"), ("Content-Length", "99999999999999"), ("Content-Length", "x"),
    ("Content-Length", None), ("X-Linked-Size", "1"), ("X-Linked-Size", "-5"), ("X-Linked-Size", "x"),
    ("X-Linked-Etag", '"y"'), ("Location", "http://127.0.0.1:9/x"), ("Location", "file:///etc/passwd"),
    ("Location", ""), ("Location", "/"), ("Content-Encoding", "gzip"), ("Content-Encoding", "x"),
    ("Transfer-Encoding", "chunked"), ("X-Error-Code", "GatedRepo"), ("X-Error-Code", "EntryNotFound"),
    ("X-Error-Message", "a\tb" * 500), ("Retry-After", "99999"), ("Retry-After", "x"), ("Content-Type", "text/html"),
    ("X-Xet-Hash", "x"), ("Link", '<http://127.0.0.1:9/>; rel="next"'), ("Set-Cookie", "a=b"),
)  # fmt: skip


@dataclass(frozen=True)
class Twist:
    """What one answer has otherwise.

    Attributes:
        request: which of a command's answers, from 0.
        status: another.
        header: another value, or None for none.
        bytes: edits of the body.
        cut: the connection ends before the answer.
    """

    request: int
    status: int | None = None
    header: tuple[str, str | None] | None = None
    bytes: tuple[BytesEdit, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class OddHub:
    """``segzoo pull`` from a hub with a checkpoint whose answers, or whose files, are edited."""

    twists: tuple[Twist, ...] = ()
    edits: tuple[JsonEdit, ...] = ()
    verb: str = "pull"

    def lay(self, folder: Path) -> Order:
        files = {file.name: file.read_bytes() for file in checkpoint().iterdir()}
        if self.edits:
            files[CONFIG] = edit_json(json.loads(files[CONFIG]), self.edits)
        hub = server()
        hub.repositories.clear()
        hub.requests.clear()
        hub.add(NAME, files)
        hub.twists = {twist.request: twist for twist in self.twists}

        def check(folder: Path, printed: str) -> None:
            if self.verb == "pull":
                got = {file.name: file.read_bytes() for file in (folder / "mirror" / NAME).iterdir()}
                for name in got.keys() - {CARD, CONFIG}:
                    assert got[name] == files[name], f"{name} is not the hub's"

        command = ["pull", NAME, "--to", "mirror"] if self.verb == "pull" else [self.verb, NAME]
        return Order(command, (f"mirror/{NAME}/*",), check, around=talking_to(hub, folder.parent / HOME))


class TwistingHub(hub_server.HubServer):
    """Stand-in for the Hub, some of whose answers are twisted."""

    twists: dict[int, Twist]


class TwistingHandler(hub_server._Handler):
    """Handler that changes what the stand-in is about to send."""

    def setup(self) -> None:
        super().setup()
        self.twist = Twist(-1)

    def _answer(self, path: str) -> None:
        self.twist = self.hub.twists.get(len(self.hub.requests) - 1, self.twist)
        if self.twist.cut:
            self.close_connection = True
            return
        self.plain, self.wfile = self.wfile, self
        super()._answer(path)

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(self.twist.status or code, message)

    def send_header(self, keyword: str, value: str) -> None:
        if self.twist.header is None or self.twist.header[0] != keyword:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        if self.twist.header is not None and self.twist.header[1] is not None:
            super().send_header(*self.twist.header)
        super().end_headers()

    def flush_headers(self) -> None:
        head = b"".join(self._headers_buffer)
        self._headers_buffer = []
        getattr(self, "plain", self.wfile).write(head)

    def write(self, body: bytes) -> int:
        """Send a piece of the body, as what the stand-in takes for its connection."""
        return self.plain.write(edit_bytes(body, self.twist.bytes))

    def flush(self) -> None:
        self.plain.flush()

    @property
    def closed(self) -> bool:
        return self.plain.closed

    def close(self) -> None:
        self.plain.close()


@cache
def server() -> TwistingHub:
    """Start the stand-in, for as long as this process lives."""
    with patch.object(hub_server, "_Handler", TwistingHandler):
        hub = TwistingHub()
    hub.twists = {}
    return hub


@contextmanager
def talking_to(hub: TwistingHub, home: Path) -> Iterator[None]:
    """Let the Hub's client of this process, which reads its variables once, ask the stand-in and keep files at home."""
    from huggingface_hub import constants

    own: dict[str, Any] = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DOWNLOAD_TIMEOUT": 5,
    }
    with patch.multiple(constants, **own), patch.dict("os.environ", {"NO_PROXY": "127.0.0.1,localhost"}):
        yield


twists = st.one_of(
    st.builds(Twist, st.integers(0, 12), status=st.sampled_from(STATUSES)),
    st.builds(Twist, st.integers(0, 12), header=st.sampled_from(HEADERS)),
    st.builds(Twist, st.integers(0, 12), bytes=bytes_edits(2)),
    st.builds(Twist, st.integers(0, 12), cut=st.just(True)),
)
cases = st.one_of(
    st.builds(OddHub, st.lists(twists, min_size=1, max_size=3).map(tuple)),
    st.builds(OddHub, edits=json_edits()),
    st.builds(OddHub, st.lists(twists, max_size=1).map(tuple), json_edits(1), st.sampled_from(["info", "verify"])),
)
