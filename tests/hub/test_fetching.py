"""Checkpoints from a stand-in for the Hub: kept offline, refused when tampered with, whole after crashes and races."""

import hashlib
import json
import pickle
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import processes
import segzoo
from hub_server import HubServer, client_environment

ROOT = Path(__file__).parents[2]
NAME, PINNED = "stranger/cmunext-s-tiny", "lv-unet-busi"

# opens a checkpoint without importing torch, and says where it is and how long the call took
OPEN = """
import sys, time
from segzoo.errors import SegzooError
from segzoo.hub import open_checkpoint
name, *options = sys.argv[1:]
start = time.perf_counter()
try:
    found = open_checkpoint(name, **dict(option.split("=") for option in options))
    print(found.folder, found.trust, sep="\\n")
except SegzooError as error:
    print("refused:", error)
print(time.perf_counter() - start)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return segzoo.create_model("cmunext_s").save_pretrained(tmp_path_factory.mktemp("fetch") / "cmunext-s-tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def server(folder):
    """A stranger's repository, and the zoo's own under another organisation's name."""
    with HubServer() as server:
        server.add(NAME, contents(folder))
        commit = server.add(f"mirror/{PINNED}", contents(ROOT / "model_cards" / PINNED))
        server.repositories[f"mirror/{PINNED}"].tags["v1.0"] = commit
        yield server


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """segzoo as a wheel would have it if it held no checkpoint, so that every one must be fetched."""
    root = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "src" / "segzoo", root / "segzoo", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def start(server, package, tmp_path):
    """Begin to open a checkpoint in a process of its own, with a cache of its own."""

    def begin(name, *options, **environment):
        variables = client_environment(server.url, tmp_path / "home") | {
            "PYTHONPATH": str(package),
            "SEGZOO_ORGANISATION": "mirror",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }
        command = [sys.executable, "-c", OPEN, name, *options]
        return subprocess.Popen(
            command, env=variables | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.fixture
def fetch(start):
    """Open a checkpoint: its folder, or the one sentence that refuses it; and the seconds that the call took."""

    def finish(name, *options, **environment):
        out, err = start(name, *options, **environment).communicate(timeout=60)
        assert "Traceback" not in err, err
        first, *_, seconds = out.splitlines()
        if first.startswith("refused: "):
            assert len(out.splitlines()) == 2  # a sentence is one line
            return first.removeprefix("refused: "), float(seconds)
        return Path(first), float(seconds)

    return finish


# ---- integrity


def test_a_published_checkpoint_is_held_to_the_packages_pin(server, fetch, start):
    found, _ = fetch(PINNED)
    assert contents(found) == contents(ROOT / "model_cards" / PINNED)
    asked = len(server.requests)
    out, _ = start(PINNED).communicate()
    assert out.splitlines()[1] == f"as published ({PINNED} v1.0, pinned by segzoo {segzoo.__version__})"
    assert len(server.requests) == asked  # what is pinned and here is not asked for again


def test_a_strangers_checkpoint_is_held_to_itself_and_that_is_said(server, fetch, start, folder):
    found, _ = fetch(NAME)
    assert contents(found) == contents(folder)
    assert "which nothing else vouches for" in start(NAME).communicate()[0]


def flip_a_byte(server, repository):
    weights = bytearray(stored(server, repository, "model.safetensors"))
    weights[-1] ^= 1
    server.tamper(repository, "model.safetensors", bytes(weights))


def truncate(server, repository):
    weights = stored(server, repository, "model.safetensors")
    server.tamper(repository, "model.safetensors", weights[: len(weights) // 2])


def swap_the_config(server, repository):
    config = json.loads(stored(server, repository, "config.json"))
    publish(server, repository, "config.json", json.dumps({**config, "class_names": ["lesion", "background"]}).encode())


def stored(server, repository, name):
    files = server.repositories[repository]
    return files.blobs[files.files("main")[name].etag]


def publish(server, repository, name, content):
    """A new commit, to which the tag is moved."""
    server.repositories[repository].tags["v1.0"] = server.add(repository, {name: content})


def edit(**changes):
    def change(server, repository):
        config = json.loads(stored(server, repository, "config.json"))
        publish(server, repository, "config.json", json.dumps({**config, **changes(config)}).encode())

    changes = changes.pop("by")
    return change


def put_a_pickle(server, repository):
    content = pickle.dumps({"head.weight": 1})
    config = json.loads(stored(server, repository, "config.json"))
    publish(server, repository, "model.safetensors", content)
    hashes = {"model.safetensors": hashlib.sha256(content).hexdigest()}
    publish(server, repository, "config.json", json.dumps({**config, "sha256": hashes}).encode())


TAMPERED = {
    "byte": (NAME, flip_a_byte, "model.safetensors of .* is not the file that its config.json lists"),
    "truncated": (NAME, truncate, "does not answer as it should|is not the file that its config.json lists"),
    "pinned byte": (PINNED, flip_a_byte, "model.safetensors of .* is not the file that its config.json lists"),
    "pinned config": (PINNED, swap_the_config, "is not the one that segzoo .* pins"),
    "pinned config by its full name": (f"mirror/{PINNED}", swap_the_config, "is not the one that segzoo .* pins"),
    "strange file": (
        NAME,
        edit(by=lambda config: {"sha256": {**config["sha256"], "../../../evil": "0" * 64}}),
        r"lists the file '\.\./\.\./\.\./evil'",
    ),
    "strange class": (
        NAME,
        edit(by=lambda config: {"model": {"name": "cmunext_s", "arguments": {"loss": {"class_path": "os.system"}}}}),
        "asks for loss=",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_tampered_with_is_refused_in_one_sentence(server, fetch, case):
    name, spoil, message = TAMPERED[case]
    spoil(server, name if "/" in name else f"mirror/{name}")
    for attempt in range(2):  # fetched, and whatever is then in the cache
        refused, _ = fetch(name)
        assert isinstance(refused, str), attempt
        assert re.search(message, refused), refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (NAME, ["revision=v9"], "has no revision 'v9'"),
        (PINNED, ["revision=v9"], "has no revision 'v9'"),
        ("stranger/nothing", [], "no repository stranger/nothing that you may read"),
        ("stranger/secret", ["token=hf_guest"], "no repository stranger/secret that you may read"),
        ("stranger/gated", ["token=hf_guest"], "stranger/gated is gated: ask its owner"),
        ("stranger/dataset", [], "has no file config.json, so it is no segzoo checkpoint"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(server, fetch, name, options, message):
    server.add("stranger/secret", {"config.json": b"{}"}, private=True)
    server.add("stranger/gated", {"config.json": b"{}"}, gated=True)
    server.add("stranger/dataset", {"data.csv": b"1,2"})
    refused, _ = fetch(name, *options)
    assert message in str(refused)


def test_an_unknown_model_and_a_pickle_are_refused_when_loaded(server, folder, tmp_path):
    spoilt = {
        "stranger/pickle": (put_a_pickle, "is not a safetensors file"),
        "stranger/unknown": (edit(by=lambda _: {"model": {"name": "os", "arguments": {}}}), "there is no model 'os'"),
    }
    code = "import sys, segzoo\nfor name in sys.argv[1:]:\n  try: segzoo.from_pretrained(name)\n"
    code += "  except segzoo.SegzooError as error: print(error)"
    for name, (spoil, _) in spoilt.items():
        server.add(name, contents(folder))
        spoil(server, name)
    environment = client_environment(server.url, tmp_path)
    done = processes.run([sys.executable, "-c", code, *spoilt], env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line, (_, message) in zip(lines, spoilt.values(), strict=True):
        assert message in line


# ---- without a network


def refused_port() -> str:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


DEAD = {
    "refused": lambda: {"HF_ENDPOINT": refused_port()},
    "unresolvable": lambda: {"HF_ENDPOINT": "http://hub.invalid"},
    "offline": lambda: {"HF_HUB_OFFLINE": "1"},
}


@pytest.mark.parametrize("case", DEAD)
def test_what_is_cached_works_without_a_network(fetch, folder, case):
    for name, expected in ((NAME, folder), (PINNED, ROOT / "model_cards" / PINNED)):
        fetch(name)
        found, _ = fetch(name, **DEAD[case]())
        assert contents(found) == contents(expected)


@pytest.mark.parametrize("case", DEAD)
def test_what_is_not_cached_fails_at_once_and_says_what_to_do(fetch, case):
    for name, revision in ((NAME, "main"), (PINNED, "v1.0")):
        refused, seconds = fetch(name, **DEAD[case]())
        assert "model.safetensors" in refused
        pull = f"segzoo pull {name} --revision {revision} --to DIR"
        for way in ("connect to the Hub", pull, f"the path DIR/{name}", "SEGZOO_HUB=DIR"):
            assert way in refused
        assert seconds < 12  # half of what the client alone takes; under a second on a machine that does nothing else


def test_a_network_that_swallows_packets_is_given_up_in_time(fetch):
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)  # and never accepts: what does not fit its queue is dropped, as by a firewall
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(silent.getsockname())
        refused, seconds = fetch(PINNED, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        for one in crowd:
            one.close()
    assert "segzoo pull" in refused
    assert seconds < 60  # the client alone takes minutes


def test_local_files_only_asks_nobody(server, package, tmp_path):
    code = "import segzoo.hub as hub\ntry: hub.open_checkpoint({!r}, local_files_only=True)\n"
    code += "except segzoo.MissingError as error: print(error)"
    environment = client_environment(server.url, tmp_path) | {"PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, "-c", "import segzoo\n" + code.format(NAME)], env=environment, capture_output=True, text=True
    )
    assert "local_files_only is set" in done.stdout, done.stderr
    assert not server.requests


def test_an_incomplete_cache_is_a_miss_offline_and_completed_online(fetch, folder):
    found, _ = fetch(NAME)
    weights = found / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    assert "not on this machine" in fetch(NAME, HF_HUB_OFFLINE="1")[0]
    assert contents(fetch(NAME)[0]) == contents(folder)


def test_a_pulled_mirror_serves_without_a_network(server, package, fetch, folder, tmp_path):
    mirror = tmp_path / "mirror"
    environment = client_environment(server.url, tmp_path / "one") | {
        "PYTHONPATH": str(package),
        "SEGZOO_ORGANISATION": "mirror",
    }
    command = [sys.executable, "-m", "segzoo.cli", "pull", NAME, PINNED, "--to", mirror]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"SEGZOO_HUB={mirror}" in done.stdout
    offline = {"SEGZOO_HUB": str(mirror), "HF_HUB_OFFLINE": "1"}
    for name, expected in ((NAME, folder), (PINNED, ROOT / "model_cards" / PINNED)):
        found, _ = fetch(name, **offline)
        assert found == mirror / name
        assert contents(found) == contents(expected)
    # a mirror is held to the pin as the Hub is
    config = json.loads((mirror / PINNED / "config.json").read_text())
    (mirror / PINNED / "config.json").write_text(json.dumps({**config, "class_names": ["lesion", "background"]}))
    assert "which segzoo" in fetch(PINNED, **offline)[0]


# ---- crashes and races


def test_a_download_that_is_killed_is_finished_by_the_next_call(server, start, fetch, folder):
    server.interrupt(after=200_000, how="hang")
    process = start(NAME)
    assert server.interrupted.wait(30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert contents(fetch(NAME)[0]) == contents(folder)


def test_two_processes_may_fetch_the_same_checkpoint_at_once(server, start, folder):
    server.delay = 0.05
    processes = [start(NAME) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert contents(Path(out.splitlines()[0])) == contents(folder), err


def test_a_full_disk_is_one_sentence_and_the_next_call_works(server, package, fetch, folder, tmp_path):
    def nearly_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # less than the weights, more than the rest

    environment = client_environment(server.url, tmp_path / "home") | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-c", OPEN, NAME]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=nearly_full)
    assert "model.safetensors could not be written to the cache (File too large); free some space" in done.stdout
    assert contents(fetch(NAME)[0]) == contents(folder)


# saves again and again over an old checkpoint, each time in a process that dies at the next of its system calls
SAVE_AND_DIE = """
import os, signal, sys
import segzoo
from segzoo.errors import SegzooError
model = segzoo.create_model("cmunext_s")
model.class_names = ("background", "new")
events = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "open", "shutil.rmtree", "tempfile.mkdtemp")
for last in range(1, 200):
    child = os.fork()
    if child == 0:
        seen = 0
        def count(event, details):
            global seen
            if event in events and "checkpoint" in str(details):
                seen += 1
                if seen == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        model.save_pretrained(sys.argv[1])
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    loaded = segzoo.from_pretrained(sys.argv[1])
    print(loaded.class_names[1])
    if not killed:
        break
    segzoo.from_pretrained(sys.argv[2]).save_pretrained(sys.argv[1])  # the old one again
"""


def test_a_save_that_is_killed_leaves_the_old_checkpoint_or_the_new_one(folder, tmp_path):
    target = tmp_path / "checkpoint"
    shutil.copytree(folder, target)
    done = processes.run([sys.executable, "-c", SAVE_AND_DIE, target, folder])
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert len(names) > 8  # places to die at
    assert names[0] == "class"  # "class 1", the old name
    assert names[-1] == "new"  # no kill any more
    assert set(names) <= {"class", "1", "new"}


def test_a_save_to_a_full_disk_keeps_the_old_checkpoint(folder, tmp_path):
    target = tmp_path / "checkpoint"
    shutil.copytree(folder, target)
    code = (
        "import resource, sys, segzoo\n"
        "model = segzoo.create_model('cmunext_s')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try: model.save_pretrained(sys.argv[1])\n"
        "except segzoo.SegzooError as error: print(error)"
    )
    done = processes.run([sys.executable, "-c", code, target])
    assert "could not be written" in done.stdout, done.stderr
    assert "what was there is as it was" in done.stdout
    assert contents(target) == contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
