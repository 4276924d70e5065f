"""``segzoo import``."""

import argparse
import shlex
import sys

from segzoo.annotations.write import Imported, describe, read_annotations, write_folder
from segzoo.cli.output import raise_first
from segzoo.errors import SegzooError


def run_import(options: argparse.Namespace) -> None:
    """Run ``segzoo import SOURCE... --output DIR``.

    Raises:
        SegzooError: Annotations cannot be read, or an image cannot be used; all others have been written by then.
    """
    known, pictures, unread = read_annotations(options.sources, options.images)
    if unknown := [name for name in options.classes or [] if name not in known]:
        raise SegzooError(f"there is no class {unknown[0]!r} in the annotations; there are {', '.join(known)}")
    drawn = {area.label for picture in pictures for area in picture.areas}
    classes = options.classes or [name for name in known if name in drawn]
    report = write_folder(options.output, pictures, classes, multilabel=options.multilabel, crowds=options.crowds)
    failures = [*unread, *report.failures]
    for failure in failures if len(failures) > 1 else []:
        print(f"segzoo: not imported: {failure}", file=sys.stderr)
    if report.images:
        for sentence in describe(report):
            print(sentence)
        if unused := [name for name in known if name not in classes]:
            print(f"classes that are left out: {', '.join(unused)}")
        print(f"to train: {command(report, str(options.output))}")
    raise_first(failures, len(pictures) + len(unread), "images were not imported")


def command(report: Imported, output: str) -> str:
    """Return the command that trains on what was written."""
    names = report.class_names
    words = ["segzoo", "fit", "--model", "lv_unet", "--data", "Folder", "--data.root", output]
    if report.multilabel:
        words += ["--data.multilabel", "true", "--model.multilabel", "true", "--model.num_classes", str(len(names))]
    if report.ignored and len(names) == 2:  # where 255 would be the lesion
        words += ["--data.values", f"{{1: '{names[1]}', 255: ignored}}"]
    else:
        quoted = ", ".join("'{}'".format(name.replace("'", "''")) for name in names)
        words += ["--data.class_names", f"[{quoted}]"]
    return shlex.join(words)
