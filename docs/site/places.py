"""Place of each of the repository's pages and pictures in the site; the rest of the repository is not in it."""

from pathlib import Path

KINDS = {".md", ".ipynb", ".png", ".jpg", ".svg", ".css"}
ROOT_PAGES = {"README.md": "overview.md"} | {
    f"{name}.md": f"{name.lower()}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")
}


def places_of(root: Path) -> dict[str, str]:
    """Return the places by the paths in the repository, all below its root; a notebook's is that of a page."""
    found = {path: place for path, place in ROOT_PAGES.items() if (root / path).is_file()}
    for path in _files(root / "docs", "**/*", root):
        found[path] = path.removeprefix("docs/").removeprefix("site/")
        if path.endswith(".ipynb"):
            found[path] = found[path].removesuffix(".ipynb") + ".md"
    for path in _files(root / "benchmarks", "*", root):
        found[path] = path
    for path in _files(root / "model_cards", "*/*", root):
        found[path] = path.replace("/README.md", ".md")  # an index.md would be the page of its section
    return found


def _files(folder: Path, pattern: str, root: Path) -> list[str]:
    files = sorted(file for file in folder.glob(pattern) if file.suffix in KINDS)
    return [file.relative_to(root).as_posix() for file in files if ".ipynb_checkpoints" not in file.parts]
