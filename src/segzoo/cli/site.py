"""Site with the page that segments in the browser, and with models that it offers: a folder of static files."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segzoo import __version__, limits
from segzoo.catalogue import finding
from segzoo.checkpoints.folder import is_new, replacing
from segzoo.checkpoints.opened import Checkpoint
from segzoo.checkpoints.parse import parse_json, read_bytes
from segzoo.cli.export import details_of
from segzoo.cli.output import raise_first, sentence
from segzoo.cli.web import INDEX, LIST
from segzoo.errors import MissingFileError, SegzooError, attempt
from segzoo.export.write import export
from segzoo.hub.find import open_checkpoint
from segzoo.hub.load import load
from segzoo.prediction.runtimes import ExportedModel, open_exported

PACKAGE = Path(__file__).parents[1]
PAGES = (PACKAGE / "page", PACKAGE.parents[1] / "web" / "dist")  # in a wheel, in a checkout
README, MODELS = "README.md", Path(LIST).parent.name
RUNTIME = "onnxruntime"  # the browser's, too
CARD = """\
---
title: segzoo
emoji: 🩻
colorFrom: blue
colorTo: gray
sdk: static
app_file: index.html
pinned: false
custom_headers:
  cross-origin-embedder-policy: require-corp
  cross-origin-opener-policy: same-origin
  cross-origin-resource-policy: cross-origin
---

# Segment medical images in the browser

A static page by segzoo: images stay on the machine of whoever opens it. Any host of static files serves this folder,
and as it is it is a Space of Hugging Face. Research only, not a medical device.

The models are listed in `models/models.json`, each with its licence, and the licences of the page's parts are in
`licences.txt`. This README.md is yours to change: a newer site in this folder leaves it as it is.
"""


def find_page() -> Path:
    """Return the folder of the built page.

    Raises:
        MissingFileError: there is none here.
    """
    for folder in PAGES:
        if (folder / INDEX).is_file():
            return folder
    raise MissingFileError(
        "this segzoo was installed without the page: install the wheel of a release (pip install medsegzoo), or, in a "
        "clone, build the page with Node.js by `make web`"
    )


def write_site(folder: Path, sources: Sequence[str]) -> None:
    """Write a site, which takes the place of an earlier one when all of it is written.

    Args:
        folder: new, empty, or with an earlier site; what else is in that comes along.
        sources: checkpoints by name or folder, and files of `segzoo export`.

    Raises:
        SegzooError: a source cannot be used; a site with all others has been written by then, if there are any.
    """
    page = find_page()
    failures: list[str] = []
    with replacing(folder, entries_beside_site, "site") as draft:
        shutil.copytree(page, draft, dirs_exist_ok=True)
        (draft / MODELS).mkdir()
        listed: list[dict[str, Any]] = []
        for source in sources:
            try:
                listed.append(add_model(source, draft / MODELS, folder / MODELS, listed))
            except (SegzooError, OSError) as error:
                failures.append(sentence(error))
                if len(sources) > 1:
                    print(f"segzoo: not in the site: {failures[-1]}", file=sys.stderr, flush=True)
        if not listed:
            raise_first(failures, len(sources), "checkpoints cannot be used")
        content = {"models": listed, "files": sorted(entry.name for entry in draft.iterdir())}
        (draft / LIST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if not (folder / README).exists():
            (draft / README).write_text(CARD, encoding="utf-8")
    print(f"{folder}: a site with {', '.join(one['name'] for one in listed)}")
    raise_first(failures, len(sources), "checkpoints are not in the site")


def entries_beside_site(folder: Path) -> list[Path]:
    """Return what a folder holds besides the files of the site in it.

    Raises:
        SegzooError: it holds something, and no site.
    """
    if is_new(folder):
        return []
    try:
        own = parse_json(read_bytes(folder / LIST, limits.JSON_BYTES), LIST)["files"]
        return [entry for entry in folder.iterdir() if entry.name not in own]
    except (SegzooError, OSError, KeyError, TypeError):
        raise SegzooError(f"{folder} holds something that is no site of segzoo web; name a new folder") from None


# ---- models


def add_model(source: str, models: Path, before: Path, listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put a model into a site; say so, and return its entry in the list.

    Args:
        source: a checkpoint, by name or folder, or a file of `segzoo export`.
        models: the folder to write into.
        before: that of the earlier site, whose files of the same checkpoint are taken again.
        listed: entries of the models that are there already.

    Raises:
        SegzooError: it cannot be used, or is called as another one is.
    """
    path = Path(source)
    if path.suffix and not path.is_dir() and (path.is_file() or path.suffix.lower() == ".onnx"):
        model = open_onnx(path)
        name, done = path.stem, "copied"
        target = free_place(name, source, models, listed)
        shutil.copyfile(path, target)
    else:
        checkpoint = open_checkpoint(source)
        name = checkpoint.config.name
        target = free_place(name, source, models, listed)
        if is_export_of(checkpoint, before / target.name):
            shutil.copyfile(before / target.name, target)
            done = "exported before"
        else:
            done = export_to(target, checkpoint)
        model = open_onnx(target)
    entry = entry_of(name, model, target)
    print(f"{name}: {entry['bytes'] / 1e6:.1f} MB, {done}", flush=True)
    return entry


def open_onnx(path: Path) -> ExportedModel:
    """Open an exported file that a browser can run, and find it good.

    Raises:
        SegzooError: it is no such file.
    """
    if path.suffix.lower() != ".onnx":
        raise SegzooError(f"the page does not run {path}; give a checkpoint, or an .onnx file of `segzoo export`")
    return open_exported(path, RUNTIME)


def free_place(name: str, source: str, models: Path, listed: Sequence[dict[str, Any]]) -> Path:
    """Return the file for a model, of a name that every address and every disk takes.

    Raises:
        SegzooError: there is such a file, of another model.
    """
    file = (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model") + ".onnx"
    for entry in listed:
        if entry["file"].lower() == file.lower():
            raise SegzooError(f"{source} would become {MODELS}/{file}, as {entry['name']} has; rename one of them")
    return models / file


def size_for_page(checkpoint: Checkpoint) -> list[int] | None:
    """Return the size that images are segmented at, and None for volumes: files of one size are twice as fast."""
    return checkpoint.config.preprocessing.get("image_size")


def is_export_of(checkpoint: Checkpoint, file: Path) -> bool:
    """Return whether a file was exported from this checkpoint, as this version of segzoo does."""
    model = attempt(open_onnx, file)
    if isinstance(model, SegzooError):
        return False
    size, entries = size_for_page(checkpoint), model.metadata.entries
    same_size = model.session.size == (None if size is None else tuple(size))
    origin = entries.get("checkpoint"), entries.get("segzoo_version"), entries["precision"]
    return same_size and origin == (details_of(checkpoint)["checkpoint"], __version__, "float32")


def export_to(target: Path, checkpoint: Checkpoint) -> str:
    """Export a checkpoint; return how well the file agrees with it, and what it leaves to `segzoo predict`."""
    model = load(checkpoint)
    model.load_report.log()
    written = export(model, target, size=size_for_page(checkpoint), details=details_of(checkpoint))
    left = f"; not in the graph: {written.left}" if written.left else ""
    return f"exported: {written.agreement} ({written.image}){left}"


def entry_of(name: str, model: ExportedModel, file: Path) -> dict[str, Any]:
    """Return what the page tells of a model before it is loaded.

    Raises:
        SegzooError: the file is not the one that was opened.
    """
    content, metadata = file.read_bytes(), model.metadata
    digest = hashlib.sha256(content).hexdigest()
    if digest != model.digest:
        raise SegzooError(f"{model.path} has changed while it was copied; start again")
    return {
        "name": name,
        "file": file.name,
        "bytes": len(content),
        "sha256": digest,
        "task": finding(metadata.task.foreground(metadata.class_names), metadata.data),
        "dataset": metadata.data.get("dataset") or "",
        "dimensions": metadata.spatial_dims,
        "size": list(model.session.size or ()),
        "licence": metadata.licences.get("weights") or "",
    }
