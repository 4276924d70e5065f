"""``segzoo web``."""

import argparse
import errno
import shlex
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from segzoo.cli.command import imported
from segzoo.errors import MissingFileError, SegzooError

INDEX, LIST = "index.html", "models/models.json"  # that every site has
HOST = "127.0.0.1"  # this machine alone
TYPES = {  # the system's own may be wrong, and browsers are strict
    **SimpleHTTPRequestHandler.extensions_map,
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}


def run_web(options: argparse.Namespace) -> None:
    """Run ``segzoo web CHECKPOINT... --output DIR``, and serve what is there where that is asked for.

    Raises:
        SegzooError: there is nothing to do, or it cannot be done.
    """
    if options.checkpoints:
        write_site = imported("segzoo.cli.site:write_site")  # and torch, which serving does without
        write_site(options.output, options.checkpoints)
    elif options.serve is None:
        raise SegzooError("name the checkpoints of the site, or serve one that is there with --serve")
    if options.serve is None:
        print(f"look at it: {shlex.join(['segzoo', 'web', '--output', str(options.output), '--serve'])}")
    else:
        serve(options.output, options.serve)


def serve(folder: Path, port: int) -> None:
    """Serve a site to browsers on this machine, until Ctrl+C.

    Raises:
        SegzooError: there is no site, or the port cannot be had.
    """
    for file in (folder / INDEX, folder / LIST):
        if not file.is_file():
            raise MissingFileError(f"{folder} holds no site; write one: segzoo web CHECKPOINT --output {folder}")
    try:
        server = Server((HOST, port), partial(Handler, directory=str(folder)))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise SegzooError(f"port {port} cannot be had ({error.strerror}); name another one: --serve PORT") from None
    with server:
        print(f"http://localhost:{server.server_port}/ until Ctrl+C", flush=True)
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """Server that takes it as no error when a browser has enough of a file."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of errors of ours alone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(SimpleHTTPRequestHandler):
    """Answers of a host that isolates the page, so that it computes in threads from the first visit on."""

    protocol_version = "HTTP/1.1"
    extensions_map = TYPES

    def end_headers(self) -> None:
        """Add the headers."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
