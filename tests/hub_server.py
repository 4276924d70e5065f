"""A stand-in for the Hugging Face Hub on this machine's loopback, for tests with the real `huggingface_hub` client.

It answers what the client asks when it creates, uploads to, tags, lists and downloads model repositories, and refuses
what the Hub would refuse, in the words the client understands. Everything is kept in memory. What it leaves out: pull
requests, datasets and spaces, Xet storage (hence `HF_HUB_DISABLE_XET`), `cardData` (that is YAML, the standard library
reads none) and folders in listings, which are always recursive.

    with HubServer() as server:
        commit = server.add("org/name", {"config.json": b"{}"})
        assert HfApi(endpoint=server.url).model_info("org/name").sha == commit

By hand, from the repository's root: `python -m tests.hub_server --port 8000`.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, unquote, urlsplit

_LFS_FROM = 64 * 1024  # bytes; the Hub draws the line at 10 MB, tests had better cross it cheaply
_PIECE = 64 * 1024  # of a file, written at once


def git_oid(content: bytes) -> str:
    """The name git gives to these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def goes_to_lfs(path: str, size: int) -> bool:
    """Whether a file is too large for git. Empty ones never are: the client commits them inline, told so or not."""
    return size > 0 and (size >= _LFS_FROM or path.endswith(".safetensors"))


@dataclass(frozen=True)
class File:
    """What a commit claims of a file. Its bytes lie elsewhere, so that `HubServer.tamper` can swap them."""

    size: int
    etag: str  # sha256 of an LFS file, git's name of another
    lfs: bool

    def listed(self, oid: str, lfs_oid: str) -> dict[str, Any]:
        """What listings say of it. They differ in what they call the hashes."""
        if not self.lfs:
            return {"size": self.size, oid: self.etag}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.etag}\nsize {self.size}\n".encode()
        lfs = {"size": self.size, lfs_oid: self.etag, "pointerSize": len(pointer)}
        return {"size": self.size, oid: git_oid(pointer), "lfs": lfs}  # git holds the pointer


@dataclass
class Repository:
    """Commits, each the whole list of files, and the names that point to them."""

    private: bool = False
    gated: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)  # by etag
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As on the Hub: a new repository has one commit with this file, so that "main" exists.
        self.commit({".gitattributes": self.store(".gitattributes", b"*.safetensors filter=lfs -text\n")})

    def store(self, path: str, content: bytes) -> File:
        """Keep the bytes and say what a commit has to say of them."""
        lfs = goes_to_lfs(path, len(content))
        file = File(len(content), hashlib.sha256(content).hexdigest() if lfs else git_oid(content), lfs)
        self.blobs[file.etag] = content
        return file

    def commit(self, files: Mapping[str, File], branch: str = "main") -> str:
        """Make these the files of the branch."""
        parent = self.branches.get(branch, "")
        commit = hashlib.sha1(f"{parent} {sorted(files.items())}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def files(self, revision: str) -> dict[str, File]:
        return self.commits[self.resolve(revision)]

    def resolve(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit's own name stands for."""
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit not in self.commits:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


class HubServer:
    """The server, in a thread of this process. `root` may hold folders `org/name`, each a repository to start with."""

    TOKEN: ClassVar[str] = "hf_owner"  # owns every repository
    GUEST: ClassVar[str] = "hf_guest"  # valid, but sees no private repository, opens no gated one and writes nowhere
    USER: ClassVar[str] = "owner"  # the namespace of repositories created without one

    def __init__(self, root: Path | None = None, port: int = 0):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []  # method and path, in the order of arrival
        self.bytes_sent = 0  # of files only
        self.delay = 0.0  # seconds before every answer
        self.interrupted = threading.Event()  # set once a download has been interrupted
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._interruptions: list[tuple[int, str]] = []
        for folder in sorted(root.glob("*/*")) if root else []:
            files = [file for file in folder.rglob("*") if file.is_file()]
            self.add("/".join(folder.parts[-2:]), {f.relative_to(folder).as_posix(): f.read_bytes() for f in files})
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.hub = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # Large files come from another host, to which the client must not send its token.
        self.storage_url = f"http://localhost:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on, and end the downloads that hang."""
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(self, repo_id: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False) -> str:
        """Commit these files over those of the repository, or of a new one with this access; the commit's name."""
        repository = self.repositories.setdefault(repo_id, Repository(private, gated))
        added = {path: repository.store(path, content) for path, content in files.items()}
        return repository.commit({**repository.files("main"), **added})

    def tamper(self, repo_id: str, path: str, content: bytes) -> None:
        """Send other bytes for a file from now on, under the size and the hashes of the old ones."""
        repository = self.repositories[repo_id]
        repository.blobs[repository.files("main")[path].etag] = content

    def interrupt(self, after: int, how: Literal["cut", "reset", "hang", "drip"] = "cut", times: int = 1) -> None:
        """Break the next downloads of files longer than `after` bytes off there.

        "cut" closes the connection, "reset" aborts it, "hang" keeps it open and silent until `stop`, "drip" sends a
        zero a few times a second until then.
        """
        self.interrupted.clear()
        self._interruptions = [(after, how)] * times

    def next_interruption(self, length: int) -> tuple[int, str]:
        """Where a download of so many bytes stops, and how."""
        with self.lock:
            if self._interruptions and length > self._interruptions[0][0]:
                return self._interruptions.pop()
        return length, ""


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | headers


_ROUTES: list[tuple[list[str], re.Pattern[str], Callable[..., None]]] = []


def _route(methods: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a method of the handler answer requests for such paths; ID stands for org/name, REV for a quoted revision."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        path = pattern.replace("ID", "([^/]+/[^/]+?)").replace("REV", "([^/]+)")
        _ROUTES.append((methods.split(), re.compile(path), function))
        return function

    return register


class _Server(ThreadingHTTPServer):
    hub: HubServer
    request_queue_size = 64  # clients download with many threads, each connecting anew

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that leaves early is no error here
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request. Connections close after each (HTTP/1.0), so none outlives a stopped server."""

    server: _Server

    def do_GET(self) -> None:
        self.hub = self.server.hub
        # Read it all even to refuse it: closing a connection with bytes unread would reset it.
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, self.query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        self.hub.requests.append((self.command, path))
        time.sleep(self.hub.delay)
        try:
            self._answer(path)
        except _Refusal as refusal:
            self._json({"error": str(refusal)}, refusal.status, refusal.headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, path: str) -> None:
        for methods, pattern, function in _ROUTES:
            if self.command in methods and (match := pattern.fullmatch(path)):
                return function(self, *map(unquote, match.groups()))
        raise _Refusal(404, f"this stand-in knows no {self.command} {path}")

    def log_message(self, *_: object) -> None:
        pass  # `HubServer.requests` has it

    # What the answers share

    def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _json(self, data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self._start(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _caller(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", HubServer.TOKEN, HubServer.GUEST):
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return token

    def _repository(self, repo_id: str, *, download: bool = False, write: bool = False) -> Repository:
        """The repository, if the caller may do this with it. Of a gated one, only the files are withheld."""
        caller, repository = self._caller(), self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and caller != HubServer.TOKEN):  # told apart by nothing
            raise _Refusal(404 if caller else 401, "Repository not found", "RepoNotFound")
        if download and repository.gated and caller != HubServer.TOKEN:
            raise _Refusal(403 if caller else 401, "Access to this model is restricted", "GatedRepo")
        if write and not caller:
            # The Hub needs no code here: over https, not http, the client takes any 401 of a repository for this one.
            raise _Refusal(401, "Invalid username or password", "RepoNotFound")
        if write and caller != HubServer.TOKEN:
            raise _Refusal(403, "You have no right to write here")
        return repository

    # Repositories and what they hold

    @_route("POST", "/api/repos/create")
    def create(self) -> None:
        if self._caller() != HubServer.TOKEN:
            raise _Refusal(403 if self._caller() else 401, "You have no right to create a model here")
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or HubServer.USER}/{asked['name']}"
        with self.hub.lock:
            exists = repo_id in self.hub.repositories
            if not exists:
                self.hub.repositories[repo_id] = Repository(private=asked.get("visibility") == "private")
        self._json({"name": repo_id, "url": f"{self.hub.url}/{repo_id}"}, 409 if exists else 200)

    @_route("GET", "/api/models/ID")
    def info_of_main(self, repo_id: str) -> None:
        self.info(repo_id, "main")

    @_route("GET", "/api/models/ID/revision/REV")
    def info(self, repo_id: str, revision: str) -> None:
        repository = self._repository(repo_id)
        files = sorted(repository.files(revision).items())
        sizes = "blobs" in self.query
        siblings = [{"rfilename": path, **(file.listed("blobId", "sha256") if sizes else {})} for path, file in files]
        access = {"private": repository.private, "gated": "manual" if repository.gated else False}
        commit = repository.resolve(revision)
        self._json({"id": repo_id, "modelId": repo_id, "sha": commit, "tags": [], "siblings": siblings, **access})

    @_route("GET", "/api/models/ID/tree/REV")
    def tree(self, repo_id: str, revision: str) -> None:
        files = sorted(self._repository(repo_id).files(revision).items())
        self._json([{"type": "file", "path": path, **file.listed("oid", "oid")} for path, file in files])

    @_route("GET", "/api/models/ID/refs")
    def refs(self, repo_id: str) -> None:
        def described(folder: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": c} for n, c in sorted(names.items())]

        repository = self._repository(repo_id)
        branches, tags = described("heads", repository.branches), described("tags", repository.tags)
        self._json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    @_route("POST", "/api/models/ID/tag/REV")
    def tag(self, repo_id: str, revision: str) -> None:
        repository = self._repository(repo_id, write=True)
        self._name(repository.tags, json.loads(self.body)["tag"], repository.resolve(revision))

    @_route("POST", "/api/models/ID/branch/REV")
    def branch(self, repo_id: str, branch: str) -> None:
        repository = self._repository(repo_id, write=True)
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        self._name(repository.branches, branch, repository.resolve(start))

    def _name(self, names: dict[str, str], name: str, commit: str) -> None:
        with self.hub.lock:
            if name in names:
                raise _Refusal(409, f"Reference {name} already exists")
            names[name] = commit
        self._json({})

    # Uploads: ask how, send the large files, commit

    @_route("POST", "/api/validate-yaml")
    def validate_card(self) -> None:
        self._json({"errors": [], "warnings": []})

    @_route("POST", "/api/models/ID/preupload/REV")
    def preupload(self, repo_id: str, revision: str) -> None:
        known = self._repository(repo_id, write=True).files(revision)

        def mode(path: str, size: int, **_: str) -> dict[str, Any]:
            # The client leaves a file out of the commit if the name it has here is the one it would get.
            oid = {"oid": known[path].etag} if path in known else {}
            return {"path": path, "uploadMode": "lfs" if goes_to_lfs(path, size) else "regular", **oid}

        self._json({"files": [{**mode(**file), "shouldIgnore": False} for file in json.loads(self.body)["files"]]})

    @_route("POST", r"/ID\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo_id: str) -> None:
        known = self._repository(repo_id, write=True).blobs
        verify = {"href": f"{self.hub.url}/{repo_id}.git/info/lfs/objects/verify"}

        def actions(oid: str) -> dict[str, Any]:
            upload = {"href": f"{self.hub.storage_url}/storage/{repo_id}/{oid}"}
            return {} if oid in known else {"actions": {"upload": upload, "verify": verify}}

        objects = [{**asked, **actions(asked["oid"])} for asked in json.loads(self.body)["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    @_route("PUT", "/storage/ID/([0-9a-f]{64})")
    def lfs_put(self, repo_id: str, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "The content is not what its sha256 says")
        self.hub.repositories[repo_id].blobs[oid] = self.body
        self._json({})

    @_route("POST", r"/ID\.git/info/lfs/objects/verify")
    def lfs_verify(self, repo_id: str) -> None:
        if json.loads(self.body)["oid"] not in self._repository(repo_id, write=True).blobs:
            raise _Refusal(404, "No such object")
        self._json({})

    @_route("POST", "/api/models/ID/commit/REV")
    def commit(self, repo_id: str, branch: str) -> None:
        repository = self._repository(repo_id, write=True)
        with self.hub.lock:
            if branch not in repository.branches:
                raise _Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            files = dict(repository.files(branch))
            for line in map(json.loads, self.body.splitlines()):
                if not repository.branches[branch].startswith(line["value"].get("parentCommit", "")):
                    raise _Refusal(412, "A commit has happened since")
                _apply(repository, files, line["key"], line["value"])
            commit = repository.commit(files, branch)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}"})

    # Downloads

    @_route("GET HEAD", "/ID/resolve/REV/(.+)")
    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id, download=True)
        headers = {"X-Repo-Commit": repository.resolve(revision)}
        if not (file := repository.files(revision).get(path)):
            raise _Refusal(404, "Entry not found", "EntryNotFound", **headers)
        headers |= {"ETag": f'"{file.etag}"', "Content-Length": str(file.size), "Accept-Ranges": "bytes"}
        if file.lfs:
            linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size), "Content-Length": "0"}
            return self._start(
                302, headers | linked | {"Location": f"{self.hub.storage_url}/storage/{repo_id}/{file.etag}"}
            )
        if self.command == "HEAD":
            return self._start(200, headers)
        return self._send(repository.blobs[file.etag], headers)

    @_route("GET", "/storage/ID/([0-9a-f]{64})")
    def storage(self, repo_id: str, etag: str) -> None:
        if "Authorization" in self.headers:  # such links carry their own right, and real storage accepts but one
            raise _Refusal(400, "Only one authorization mechanism is allowed")
        self._send(self.hub.repositories[repo_id].blobs[etag], {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"})

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        """Send a file or the asked part of it, up to where a test wants it interrupted."""
        status, total = 200, len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or total), total - 1)
            if first > last:
                raise _Refusal(416, "Nothing is there", **{"Content-Range": f"bytes */{total}"})
            status, content = 206, content[first : last + 1]
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{total}"}
        self._start(status, headers | {"Content-Length": str(len(content))})
        end, how = self.hub.next_interruption(len(content))
        for start in range(0, end, _PIECE):
            piece = content[start : min(start + _PIECE, end)]
            with self.hub.lock:  # counted first: once it has arrived, a test may look
                self.hub.bytes_sent += len(piece)
            self.wfile.write(piece)
        if how:
            self._interrupt(how)

    def _interrupt(self, how: str) -> None:
        self.hub.interrupted.set()
        if how == "hang":
            self.hub.stopping.wait()
        while how == "drip" and not self.hub.stopping.wait(0.2):
            self.wfile.write(b"0")
        if how == "reset":  # a socket that lingers for 0 seconds closes with RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # holds the socket open
            self.connection.close()


def _apply(repository: Repository, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Do to the files what one line of a commit says."""
    path = value.get("path", "")
    if key == "file":
        files[path] = repository.store(path, base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in repository.blobs:
            raise _Refusal(400, f"{path} was never uploaded")
        files[path] = File(len(repository.blobs[value["oid"]]), value["oid"], lfs=True)
    elif key == "deletedFile":
        files.pop(path, None)
    elif key == "deletedFolder":
        for inside in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[inside]


def client_variables(server_url: str, home: Path) -> dict[str, str]:
    """What must be in the environment before `huggingface_hub` is imported, for it to talk to the server alone."""
    return {
        "HF_ENDPOINT": server_url,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),  # follows HF_HOME, unless the machine's owner has set it
        "HF_TOKEN": HubServer.TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def client_environment(server_url: str, home: Path) -> dict[str, str]:
    """This process's environment with those variables, for the `env` of a subprocess."""
    return {**os.environ, **client_variables(server_url, home)}


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for the Hugging Face Hub on this machine")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--root", type=Path, help="a folder with repositories org/name to start with")
    arguments = parser.parse_args()
    home = Path(tempfile.gettempdir()) / f"hub-server-{os.getpid()}"  # made by the client, if one is run
    with HubServer(arguments.root, arguments.port) as server:
        for name, value in client_variables(server.url, home).items():
            print(f"export {name}={value}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
