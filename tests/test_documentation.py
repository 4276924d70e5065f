"""What the documents say is true: links, commands, files they show, tables and versions."""

import inspect
import json
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from lightning import Trainer

import segzoo
from segzoo import limits, registry

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING, CHANGELOG, SECURITY = (
    ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")
)
SAFETY, START = ROOT / "docs" / "safety.md", ROOT / "docs" / "index.md"
PAGES = [
    README,
    CONTRIBUTING,
    CHANGELOG,
    SECURITY,
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/reference/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
VERBS = json.loads((ROOT / "tests" / "surface.json").read_text(encoding="utf-8"))["verbs"]
SHORT = {"-c", "-h", "--help"}  # what surface.json leaves out


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def outside_code(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# ---- README


def test_the_readme_is_short_and_has_one_table():
    lines = text_of(README).splitlines()
    assert len(lines) <= 140
    assert len([line for line in lines if re.fullmatch(r"\|( *:?-+:? *\|)+", line)]) == 1


def linked_from(page: Path) -> set[str]:
    """The files that a page links to, as paths of the repository."""
    links = re.findall(r"\]\(([^)#:\s]+)[^)\s]*\)", text_of(page))
    return {os.path.relpath(page.parent / link, ROOT) for link in links}


def test_every_document_is_one_click_from_a_first_page():
    linked = linked_from(README) | linked_from(START)
    documents = {page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/*.md") if page != START}
    documents |= {"CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE"}
    documents |= {f"benchmarks/{name}.md" for name in ("quality", "claims", "speed")}
    assert documents - linked == set()


# ---- links


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to a page's headings, and the site to the names of its reference."""
    headings = re.findall(r"^#+ (.+)$", outside_code(text_of(page)), re.MULTILINE)
    names = re.findall(r"^::: (\S+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | {*names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# ---- commands


def commands(text: str) -> list[list[str]]:
    """The segzoo commands in the blocks of code for the shell, and then those between words, as lists of words."""
    blocks = "\n".join(re.findall(r"^```shell\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    lines += [command.replace("\n", " ") for command in re.findall(r"`(segzoo [^`]+)`", outside_code(text))]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["segzoo"]]


def wrong_options(command: list[str]) -> list[str]:
    """The options of a command that its verb does not have, nor the model or data that it names."""
    verb, *words = command
    known = {*VERBS[verb], *SHORT}
    named = {option: words[words.index(option) + 1] for option in ("--model", "--data") if option in words}
    wrong = []
    for word in words:
        option, _, argument = word.partition(".")
        if not option.startswith("-"):
            continue
        takes = arguments_of(option, named.get(option)) if argument else None
        if option not in known or (takes is not None and argument.split(".")[0] not in takes):
            wrong.append(word)
    return wrong


def arguments_of(option: str, name: str | None) -> set[str] | None:
    """What can follow the dot of an option of `segzoo fit`; None where that is not known."""
    if option == "--trainer":
        return taken_by(Trainer)
    if option == "--data" and name:
        return {*taken_by(getattr(segzoo.data, name)), "help"}
    if option == "--model" and name in segzoo.list_models():
        return {*registry.arguments_of(name)}
    if option == "--model" and name:
        return {*inspect.signature(segzoo.from_pretrained).parameters}
    return None


def taken_by(kind: type) -> set[str]:
    """The arguments of a class, and of those that it passes others on to."""
    return {name for one in kind.__mro__ for name in inspect.signature(one.__init__).parameters}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_they_are_shown_with(page):
    shown = [(command, wrong_options(command)) for command in commands(text_of(page)) if command[0] in VERBS]
    assert [wrong for wrong in shown if wrong[1]] == []
    assert [command for command in commands(text_of(page)) if command[0] not in VERBS] == []


def test_wrong_options_are_found():
    page = "```shell\nsegzoo fit --model cmunext_s --model.depht 3 \\\n  --data Folder --data.folds 2\n"
    page += "segzoo predict a b --out c  # --output\n```\nThen `segzoo fit ... --trainer.epochs\n4` and `--none`.\n"
    assert [wrong_options(command) for command in commands(page)] == [
        ["--model.depht", "--data.folds"],
        ["--out"],
        ["--trainer.epochs"],
    ]


def test_what_the_readme_predicts_first_is_in_a_clone():
    (shown, *_) = (command for command in commands(text_of(README)) if command[0] == "predict")
    assert shown[1] in segzoo.list_checkpoints()
    assert (ROOT / shown[2]).is_file()


# ---- models


def test_the_page_of_models_lists_them_as_segzoo_list_does():
    table = [line for line in text_of(ROOT / "docs" / "models.md").splitlines() if line.startswith("| `")]
    own = [facts for facts in registry.models().values() if facts.builder.startswith("segzoo.models.")]
    assert table == [model_row(facts) for facts in own]


def model_row(facts: registry.ModelFacts) -> str:
    ranks = " and ".join(f"{rank}D" for rank in facts.spatial_dims)
    name = facts.pretrained
    checkpoint = f"[`{name}`](../model_cards/{name}/README.md)" if name else "-"
    paper = f"[{facts.paper.rpartition('/')[2]}]({facts.paper})"
    return f"| `{facts.name}` | {facts.parameters:,} | {ranks} | {checkpoint} | {paper} |"


def test_every_checkpoint_is_on_the_page_of_checkpoints():
    page = text_of(ROOT / "docs" / "checkpoints.md")
    for config in sorted(ROOT.glob("model_cards/*/config.json")):
        name, model = config.parent.name, json.loads(text_of(config))["model"]["name"]
        assert f"| [`{name}`](../model_cards/{name}/README.md) | `{model}` |" in page


# ---- CONTRIBUTING


def wrongly_shown(text: str, root: Path) -> list[str]:
    """The files that a page says it shows, by a comment above a block of code, and does not show as they are."""
    marked = re.findall(r"^<!-- file: (\S+) -->\n(?:```\w*\n(.*?)^```$)?", text, re.MULTILINE | re.DOTALL)
    return [name for name, code in marked if not (root / name).is_file() or text_of(root / name) != code]


def test_contributing_shows_the_files_as_they_are():
    assert wrongly_shown(text_of(CONTRIBUTING), ROOT) == []


def test_contributing_shows_every_file_of_the_package_that_extends():
    package = (ROOT / "tests" / "extending" / "package" / "segzoo_tiny").glob("*.py")
    files = {file.relative_to(ROOT).as_posix() for file in package if file.name != "__init__.py"}
    assert files - set(re.findall(r"^<!-- file: (\S+) -->$", text_of(CONTRIBUTING), re.MULTILINE)) == set()


def test_files_that_are_shown_otherwise_are_found(tmp_path):
    for name in ("good", "old", "bare"):
        (tmp_path / f"{name}.py").write_text("one = 1\n\ntwo = 2\n")
    shown = {"good": "one = 1\n\ntwo = 2\n", "old": "one = 1\n", "gone": "one = 1\n\ntwo = 2\n"}
    page = "\n".join(f"<!-- file: {name}.py -->\n```python\n{code}```\n" for name, code in shown.items())
    page += "\n<!-- file: bare.py -->\nno code\n\n```python\none = 1\n\ntwo = 2\n```\n"
    assert wrongly_shown(page, tmp_path) == ["old.py", "gone.py", "bare.py"]


@pytest.mark.parametrize("kind", ["models", "datasets", "metrics", "readers", "export_formats", "postprocessing"])
def test_contributing_names_what_packages_announce(kind):
    assert f"| `segzoo.{kind}` |" in text_of(CONTRIBUTING)


# ---- safety


def promises(text: str) -> list[str]:
    """The points of a page of promises, each with what stands below it."""
    return re.findall(r"^- (.*?)(?=^- |^#|\Z)", text, re.MULTILINE | re.DOTALL)


def named_tests(text: str) -> list[tuple[str, str]]:
    """The tests that a page names, by file below tests/ and function."""
    return re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)


def test_every_promise_names_a_test():
    assert len(promises(text_of(SAFETY))) > 10
    unproven = [one for one in promises(text_of(SAFETY)) if not named_tests(one)]
    assert [one for one in unproven if "nothing is promised" not in one] == []


def test_the_tests_of_promises_are_there():
    for file, name in named_tests(text_of(SAFETY)):
        assert re.search(rf"^def {name}\(", text_of(ROOT / "tests" / file), re.MULTILINE), f"{file}::{name}"


def test_every_limit_is_on_the_page_of_safety():
    table = [line for line in text_of(SAFETY).splitlines() if line.startswith("| `SEGZOO_MAX_")]
    known = [value for value in vars(limits).values() if isinstance(value, limits.Limit)]
    assert table == [limit_row(limit) for limit in known]


def limit_row(limit: limits.Limit) -> str:
    return f"| `{limit.variable}` | {limit.default:,} {limit.unit} | {limit.reason} |"


# ---- versions


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2.0 requires
    assert citation["cff-version"] == "1.2.0"
    assert (citation["type"], citation["license"]) == ("software", "Apache-2.0")
    assert citation["version"] == segzoo.__version__
    assert "doi" not in citation


def test_the_changelog_begins_with_this_version():
    (newest, *_) = re.findall(r"^## \[(.+?)\]", text_of(CHANGELOG), re.MULTILINE)
    assert newest == segzoo.__version__
