"""What is installed and run on others' machines is said to the byte."""

import base64
import json
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
        one for extra in ("onnx", "openvino", "bench", "pictures", "docs", "dev") for one in extra_of(project, extra)
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


# ---- the page's packages

WEB = ROOT / "web"
PACKAGE = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
NODE_LOCK = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))


def test_every_package_of_the_page_has_a_hash():
    assert NODE_LOCK["lockfileVersion"] == 3
    packages = {path: entry for path, entry in NODE_LOCK["packages"].items() if path}
    assert len(packages) > 10
    for path, entry in packages.items():
        kind, _, digest = entry.get("integrity", "").partition("-")
        assert (kind, len(base64.b64decode(digest))) == ("sha512", 64), path


def test_no_package_of_the_page_names_a_registry():
    files = [path for path in WEB.glob("*") if path.name in ("package.json", "package-lock.json", ".npmrc")]
    assert len(files) == 3
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\"resolved\"|registry|\.tgz|git\+|file:", text), file


def test_the_page_names_exact_versions_and_its_lock_has_them():
    named = {**PACKAGE["dependencies"], **PACKAGE["devDependencies"]}
    for name, version in named.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert NODE_LOCK["packages"][f"node_modules/{name}"]["version"] == version
    assert "save-exact=true" in settings()


def test_no_package_of_the_page_runs_a_script_when_it_is_installed():
    assert "ignore-scripts=true" in settings()


def settings():
    return (WEB / ".npmrc").read_text(encoding="utf-8").splitlines()


def test_the_version_of_node_is_named_for_people_and_for_workflows():
    named = tuple(map(int, (WEB / ".nvmrc").read_text(encoding="utf-8").split(".")))
    least = tuple(map(int, PACKAGE["engines"]["node"].removeprefix(">=").split(".")))
    assert named >= least
    for file in WORKFLOWS:
        for job in yaml.safe_load(file.read_text("utf-8"))["jobs"].values():
            commands = " ".join(step.get("run", "") for step in job["steps"])
            node = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-node@")]
            assert bool(node) == bool(re.search(r"\.ci/run|make (site|web|wheel)", commands)), file
            assert all(one["node-version-file"] == "web/.nvmrc" for one in node)


def test_workflows_install_the_page_as_it_is_locked():
    for file in (*WORKFLOWS, ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / ".ci" / "test-web"):
        assert not re.search(r"npm (install|i|update|add)\b", file.read_text("utf-8")), file


def test_the_page_is_never_skipped_in_a_workflow():
    ran = [
        step
        for file in WORKFLOWS
        for job in yaml.safe_load(file.read_text("utf-8"))["jobs"].values()
        for step in job["steps"]
        if ".ci/run" in step.get("run", "")
    ]
    assert ran
    assert all(step["env"]["SEGZOO_WEB"] == "required" for step in ran)
