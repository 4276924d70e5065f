"""The documentation site: every page has one place, links fit it, and every public name is in its reference."""

import json
import re
import shutil
from typing import Any

import pytest
import yaml
from docs.site.check import names, problems
from docs.site.commands import reference
from docs.site.links import DeadLinkError, moved_links
from docs.site.notebooks import as_page
from docs.site.places import places_of
from docs.site.sources import as_sources, gather
from pages import ROOT

import segzoo

SURFACE = json.loads((ROOT / "tests" / "surface.json").read_text(encoding="utf-8"))
WRITTEN = {"model_cards/index.md"}  # pages that are written when the site is built


class Loader(yaml.SafeLoader):
    """Loader that leaves out what mkdocs.yml names of Python."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation() -> list[str]:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in pages(one)]

    return pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])


def test_every_page_is_in_the_navigation_once():
    known = {place for place in places_of(ROOT).values() if place.endswith(".md")}
    assert sorted(navigation()) == sorted(known | WRITTEN)


# ---- links

PLACES = {"docs/a.md": "a.md", "docs/b.md": "b.md", "top.md": "top.md", "cards/one/README.md": "cards/one.md"}


@pytest.fixture
def clone(tmp_path):
    for path in [*PLACES, "src/code.py"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "link", "moved"),
    [
        ("docs/a.md", "b.md#there", "b.md#there"),
        ("docs/a.md", "#here", "#here"),
        ("docs/a.md", "../top.md", "top.md"),
        ("top.md", "docs/a.md", "a.md"),
        ("docs/a.md", "../cards/one/README.md#scores", "cards/one.md#scores"),
        ("cards/one/README.md", "../../docs/b.md", "../b.md"),
        ("docs/a.md", "https://example.org/docs/b.md", "https://example.org/docs/b.md"),
    ],
)
def test_links_fit_the_place_of_their_page(clone, path, link, moved):
    page = f"See [this\npage]({link}).\n\n```text\n[this]({link})\n```\n"
    expected = f"See [this\npage]({moved}).\n\n```text\n[this]({link})\n```\n"
    assert moved_links(page, path, PLACES, clone) == expected


def test_code_is_linked_to_where_the_workflow_says_that_it_is(clone, monkeypatch):
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)
    assert moved_links("[`code`](../src/code.py#L3)", "docs/a.md", PLACES, clone) == "`code`"
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/mine")
    moved = moved_links("[`code`](../src/code.py#L3), [all](../src)", "docs/a.md", PLACES, clone)
    here = "https://example.org/me/mine/blob/HEAD/src"
    assert moved == f"[`code`]({here}/code.py#L3), [all]({here})"


def test_dead_links_are_found(clone):
    with pytest.raises(DeadLinkError, match=r"docs/a\.md links to \.\./gone\.md"):
        moved_links("[gone](../gone.md)", "docs/a.md", PLACES, clone)


# ---- sources


def test_sources_are_the_pages_without_what_only_programs_read(tmp_path):
    gather(ROOT, tmp_path / "sources")
    card = (tmp_path / "sources" / "model_cards" / "lv-unet-busi.md").read_text(encoding="utf-8")
    assert card.startswith("# lv-unet-busi\n")
    assert "](lv-unet-busi/example.png)" in card
    assert (tmp_path / "sources" / "model_cards" / "lv-unet-busi" / "example.png").is_file()
    assert "<!--" not in (tmp_path / "sources" / "predict.md").read_text(encoding="utf-8")
    gallery = (tmp_path / "sources" / "model_cards" / "index.md").read_text(encoding="utf-8")
    cards = set(segzoo.list_checkpoints())
    assert set(re.findall(r"^## \[([\w-]+)\]", gallery, re.MULTILINE)) == cards


def test_lists_hold_what_belongs_to_their_points():
    page = "---\na: 1\n---\n\n- point\n  goes on\n\n  <!-- not run: x -->\n  ```python\n  if a:\n      b\n  ```\n"
    page += "\n```text\n  <!-- kept -->\n```\n"
    assert as_sources(page) == (
        "- point\n    goes on\n\n    ```python\n    if a:\n        b\n    ```\n\n```text\n  <!-- kept -->\n```\n"
    )


def test_notebooks_become_pages(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Train\n", "Words."]},
        {"cell_type": "code", "source": ["1 + 1\n", "print(3)"], "outputs": [{"text": ["3\n"]}]},
        {"cell_type": "code", "source": ["draw()"], "outputs": [{"data": {"image/png": "aGk=\n", "text/plain": "x"}}]},
        {"cell_type": "code", "source": ["film()"], "outputs": [{"data": {"image/jpeg": "/9j//"}}]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    assert as_page(tmp_path / "one.ipynb").split("\n\n") == [
        "# Train\nWords.",
        "[Download this notebook](one.ipynb){ download }",
        "```python\n1 + 1\nprint(3)\n```",
        "```text\n3\n```",
        "```python\ndraw()\n```",
        "![What this cell draws](data:image/png;base64,aGk=)",
        "```python\nfilm()\n```",
        "![What this cell draws](data:image/jpeg;base64,/9j//)",
        "",
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells[2:4]}))
    page = as_page(tmp_path / "one.ipynb").replace("one.ipynb", "https://there/one.ipynb")
    assert moved_links(page, "docs/one.ipynb", {"docs/one.ipynb": "one.md"}, tmp_path) == page


# ---- reference


def test_the_reference_has_every_option_of_every_verb():
    page = reference()
    anchors = set(re.findall(r"\{ #(\S+) \}", page))
    assert anchors == set(names({"verbs": SURFACE["verbs"]}))
    meanings = re.findall(r"^:   (.*)$", page, re.MULTILINE)
    assert len(meanings) == sum(map(len, SURFACE["verbs"].values()))
    assert [text for text in meanings if len(text) < 5] == []


def test_the_reference_has_every_public_name():
    import segzoo.metrics
    import segzoo.nn

    pages = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/reference/*.md"))
    placed = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    faces = {face: known for face, known in SURFACE.items() if face != "verbs"}
    faces |= {face.__name__: face.__all__ for face in (segzoo.metrics, segzoo.nn)}
    assert set(names(faces)) - placed == set()


def test_references_of_docstrings_are_links():
    griffe = pytest.importorskip("griffe", reason="the extra docs is not installed")
    from docs.site.docstrings import Docstrings

    text = "See :class:`Thing` and :meth:`Thing.do`, :func:`other.far`.\n\nExample:\n    >>> 1\n    1\n"
    code = f'"""{text}"""\n_HOMES = {{"far": "other.place"}}\nclass Thing: ...\n'
    package = griffe.visit("package", filepath=None, code=code)
    Docstrings().on_package(pkg=package)
    assert re.findall(r'identifier="([^"]+)"', package.docstring.value) == [
        "package.Thing",
        "package.Thing.do",
        "other.far",
    ]
    assert "\nExamples:\n" in package.docstring.value
    assert package.members["far"].target_path == "other.place.far"


# ---- what was built


POLICY = """<meta http-equiv="Content-Security-Policy" content="default-src 'self'">"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "reference").mkdir()
    reference = tmp_path / "reference" / "index.html"
    reference.write_text(f'{POLICY}<h2 id="segzoo.one">one</h2><code id="fit.data"></code>')
    (tmp_path / "index.html").write_text(f'{POLICY}<h2 id="fit">fit</h2><a href="https://example.org">out</a>')
    return tmp_path


def test_names_without_a_place_are_found(site):
    surface = {"segzoo": ["one", "two"], "verbs": {"fit": ["--data"]}}
    found = problems(site, surface)
    assert [sentence.partition(" ")[0] for sentence in found] == ["segzoo.two", "fit"]


@pytest.mark.parametrize(
    "loaded",
    [
        '<script src="https://example.org/a.js"></script>',
        '<img alt="" src="//example.org/a.png">',
        '<img srcset="a.png 1x, https://example.org/b.png 2x">',
        '<link rel="stylesheet" href="http://example.org/a.css">',
        '<link rel="preconnect" href="https://example.org">',
        '<p style="background: url(https://example.org/a.png)"></p>',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_files_from_elsewhere_are_found(site, loaded):
    assert problems(site, {}) == []
    (site / "other.html").write_text(f'{POLICY}<link rel="canonical" href="https://example.org/me">{loaded}')
    assert len(problems(site, {})) == 1


def test_pages_that_let_a_browser_load_anything_are_found(site):
    (site / "other.html").write_text("<p>no policy</p>")
    assert len(problems(site, {})) == 1


def test_fonts_from_elsewhere_are_found(site):
    (site / "a.css").write_text("@import 'https://example.org/b.css'; .a { src: url(b.woff2) }")
    assert len(problems(site, {})) == 1
    shutil.copy(site / "a.css", site / "b.css")
    assert len(problems(site, {})) == 2
