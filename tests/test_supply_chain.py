"""What is installed and run on others' machines is said to the byte."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """The lock's packages by name, each with its hashes."""
    entries = re.sub(r"\s*\\\n\s*", " ", re.sub(r"^ *#.*\n", "", LOCK, flags=re.MULTILINE)).splitlines()
    parts = [entry.split(" --hash=") for entry in entries if entry.strip()]
    return {canonicalize_name(Requirement(one).name): (Requirement(one), hashes) for one, *hashes in parts}


def test_every_package_has_hashes():
    assert len(locked()) > 80
    for requirement, hashes in locked().values():
        (version,) = requirement.specifier
        assert version.operator == "=="
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)
    assert not re.search(r"://|--(extra-)?index|--find-links", LOCK)


def test_the_lock_holds_what_the_project_needs_and_is_built_with():
    project = PROJECT["project"]
    needed = project["dependencies"] + [
        one for extra in ("onnx", "openvino", "pictures", "docs", "dev") for one in extra_of(project, extra)
    ]
    for requirement in map(Requirement, needed + PROJECT["build-system"]["requires"]):
        found, _ = locked()[canonicalize_name(requirement.name)]
        (version,) = found.specifier
        assert requirement.specifier.contains(version.version), f"{requirement} and {found}"


def extra_of(project, name):
    return [one for one in project["optional-dependencies"][name] if not one.startswith("medsegzoo")]


def test_actions_are_named_by_their_commits():
    used = [line for file in WORKFLOWS for line in file.read_text("utf-8").splitlines() if "uses:" in line]
    assert len(used) > 5
    for line in used:
        assert re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_no_checkout_keeps_its_credentials():
    steps = [
        step
        for file in WORKFLOWS
        for job in yaml.safe_load(file.read_text("utf-8"))["jobs"].values()
        for step in job["steps"]
    ]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_workflows_install_nothing_but_by_hashes():
    for file in WORKFLOWS:
        for command in re.findall(r"pip install (.*)", file.read_text("utf-8")):
            assert "--require-hashes" in command or {"--no-deps", "--no-index"} <= set(command.split()), command
