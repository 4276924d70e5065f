"""A release, as far as this machine goes: the script that the workflow runs, against a stand-in for the Hub."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

import processes
import segzoo
from hub_server import HubServer, client_environment
from segzoo.checkpoints import pins
from segzoo.hub.publish import pin

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "release.py"
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
FOLDERS = sorted(path.parent for path in ROOT.glob("model_cards/*/config.json"))
PINS = json.loads((ROOT / "src" / "segzoo" / "published.json").read_text(encoding="utf-8"))


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def release():
    """The script as a module, for what asks nothing of the Hub."""
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(server, home, *arguments, **environment):
    """A process that knows the server alone."""
    done = processes.run(
        [sys.executable, *arguments],
        env=client_environment(server.url, home) | {"SEGZOO_HUB": "", "SEGZOO_ORGANISATION": "segzoo"} | environment,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_dry_run_names_every_file_and_asks_the_hub_nothing(server, tmp_path):
    printed = run(server, tmp_path, SCRIPT, "push", "--dry-run", HF_TOKEN="").stdout
    assert not server.repositories
    assert not server.requests
    for folder in FOLDERS:
        assert f"{folder} -> segzoo/{folder.name}, tagged {PINS[folder.name]['tag']}:" in printed
        for file in folder.iterdir():
            assert f"{file.stat().st_size:>12,} bytes  {file.name}" in printed


@pytest.mark.slow
def test_a_push_brings_every_checkpoint_and_a_second_one_changes_nothing(server, tmp_path):
    first = run(server, tmp_path, SCRIPT, "push").stdout
    assert set(server.repositories) == {f"segzoo/{folder.name}" for folder in FOLDERS}
    for folder in FOLDERS:
        repository = server.repositories[f"segzoo/{folder.name}"]
        ((tag, commit),) = repository.tags.items()
        assert tag == PINS[folder.name]["tag"]
        files = repository.files(tag)
        assert set(files) - {".gitattributes"} == {file.name for file in folder.iterdir()}
        for file in folder.iterdir():
            assert repository.blobs[files[file.name].etag] == file.read_bytes(), file
        assert f"published at {server.url}/segzoo/{folder.name}/commit/{commit}" in first
    before = {name: (dict(there.commits), dict(there.tags)) for name, there in server.repositories.items()}
    assert run(server, tmp_path, SCRIPT, "push").stdout == first
    assert {name: (there.commits, there.tags) for name, there in server.repositories.items()} == before

    card = (ROOT / "model_cards" / "lv-unet-busi" / "README.md").read_text(encoding="utf-8")
    (by_class,) = re.findall(r"```python\n([^`]*from_pretrained\(\"segzoo/[^`]*)```", card)
    loaded = run(server, tmp_path, "-c", by_class + "\nprint(model.load_report.trust)")
    tag = PINS["lv-unet-busi"]["tag"]
    assert loaded.stdout.startswith(f"as published (lv-unet-busi {tag}, pinned by segzoo ")
    assert ("GET", f"/segzoo/lv-unet-busi/resolve/{tag}/config.json") in server.requests


def test_the_pins_are_those_of_the_checkpoints(release, capsys):
    assert pin(ROOT / "model_cards") == PINS
    release.check(f"v{segzoo.__version__}")
    assert capsys.readouterr().out == f"v{segzoo.__version__}: {len(FOLDERS)} checkpoints, as pinned\n"


@pytest.fixture
def checkpoint(release, tmp_path, monkeypatch):
    """A small checkpoint, in the place of the repository's, and not pinned yet."""
    monkeypatch.setattr(release, "MODEL_CARDS", tmp_path / "model_cards")
    monkeypatch.setattr(release, "PINS", tmp_path / "published.json")
    monkeypatch.setattr(pins, "PINS", tmp_path / "published.json")
    (tmp_path / "published.json").write_text("{}")
    pins.published.cache_clear()
    yield segzoo.create_model("cmunext_s").save_pretrained(tmp_path / "model_cards" / "cmunext-s-mine")
    monkeypatch.undo()
    pins.published.cache_clear()


def test_pinning_makes_a_checkpoint_ready(release, checkpoint, capsys, refused):
    with refused(segzoo.SegzooError):
        release.push_all(dry_run=True)
    assert 'CMUNeXt.from_pretrained("cmunext-s-mine")' in (checkpoint / "README.md").read_text()
    release.write_pins()
    assert 'CMUNeXt.from_pretrained("segzoo/cmunext-s-mine", revision="v1.0")' in (checkpoint / "README.md").read_text()
    release.push_all(dry_run=True)
    assert "segzoo/cmunext-s-mine, tagged v1.0" in capsys.readouterr().out


def test_what_is_not_ready_is_not_released(release, checkpoint, refused):
    release.write_pins()
    with refused(segzoo.SegzooError):
        release.check("v0.0.7")
    (checkpoint / "README.md").write_text("mine")
    with refused(segzoo.SegzooError):
        release.check(f"v{segzoo.__version__}")


def test_the_workflow_checks_then_pushes_then_publishes(release):
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads "on" so
    jobs = workflow["jobs"]
    assert [(name, job.get("needs")) for name, job in jobs.items()] == [
        ("build", None),
        ("hub", "build"),
        ("attest", "hub"),
        ("pypi", "hub"),
    ]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    assert any(command.startswith("make wheel") for command in commands)
    assert (ROOT / ".ci" / "run").is_file()
    scripted = [
        shlex.split(command.partition(".github/release.py ")[2]) for command in commands if "release.py" in command
    ]
    assert scripted == [["check", "$GITHUB_REF_NAME"], ["push", "--dry-run"], ["push"]]
    for arguments in scripted:
        release.build_parser().parse_args(arguments)
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}
    assert jobs["attest"]["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}
    assert [job for job in jobs if "secrets." in json.dumps(jobs[job])] == ["hub"]
