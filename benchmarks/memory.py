"""Memory that `segzoo predict` takes for a large volume, by its windows.

    python benchmarks/memory.py [--shape 600 512 512] [--classes 20]

Writes memory.md. Each row is a process of its own that reads a CT of made-up intensities from a file, segments it by
a network of one convolution with random weights, and writes the mask; its peak is what the system says of it in the
end, and what it held before is that of the moment when nothing is read yet. One thread on the CPU.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

PAGE = Path(__file__).parent / "memory.md"
GIB = 2**30
SPACING = (0.75, 0.75, 1.0)  # mm, in the order of files
HEADING = """# Memory of a large volume

Written by `python benchmarks/memory.py`: change nothing here by hand. Peak memory (resident set) of a process that
segments one CT of {shape} voxels into {classes} classes and writes the mask, with random weights of one 3x3x3
convolution, on one thread of {machine}, with PyTorch {torch}. Of each peak
{before:.2f} GiB were there before the volume was read. The probabilities of all classes at once, which are never held,
would fill {whole:.1f} GiB.

| windows | overlap | network's voxels | number | peak |
| --- | ---: | --- | ---: | ---: |
"""
END = """
The number of windows changes little; how long they are along the first axis does, since that many slices of all
classes are held (in float32, {slab:.2f} GiB for 128). This is the way of one volume from file to file, as
`segzoo predict` goes; of several, the next one is read meanwhile. What `--probabilities` writes waits on the disk.
"""


@dataclass
class Case:
    """One row: the windows, their overlap, the spacing that the network wants, and what happens to probabilities."""

    patch: tuple[int, ...]
    overlap: float
    spacing: float | None = None


CASES = [
    Case((128, 128, 128), 0),
    Case((128, 128, 128), 0.5),
    Case((64, 171, 128), 0),
    Case((64, 103, 103), 0),
    Case((64, 52, 52), 0),
    Case((128, 128, 128), 0.5, 1.5),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[600, 512, 512], help="slices, rows and columns")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a process of its own
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(CASES[options.case], options.classes, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_ct(Path(folder) / "ct.nii", options.shape)
        found = [process(number, options, Path(folder)) for number in range(len(CASES))]
    PAGE.write_text(page(options, found), encoding="utf-8")


def write_ct(file: Path, shape: list[int]) -> None:
    """Write a volume of smooth Hounsfield units, as 16 bits."""
    planes = [np.linspace(-3, 3, side, dtype=np.float32) for side in shape]
    body = np.empty(shape, np.int16)
    across = np.sin(3 * planes[1])[:, None] * np.cos(5 * planes[2])
    for plane, depth in zip(body, planes[0], strict=True):
        plane[:] = 400 * across * np.cos(4 * depth) + 300 * np.sin(9 * depth)
    image = sitk.GetImageFromArray(body)
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(file))


def process(number: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--case", number, "--folder", folder, "--classes", options.classes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(CASES[number], found, flush=True)
    return found


def measure(case: Case, classes: int, folder: Path) -> dict[str, Any]:
    """Segment the CT, and return what that took."""
    import torch

    import segzoo
    from segzoo.imaging.readers import inputs_in
    from segzoo.prediction.files import segment_files
    from segzoo.prediction.pipeline import Pipeline
    from segzoo.prediction.plan import plan
    from segzoo.prediction.torch_backend import TorchBackend

    class Narrow(segzoo.SegmentationModule):
        """One convolution."""

        spatial_dims = 3

        def __init__(self) -> None:
            super().__init__(1, classes)
            self.layer = torch.nn.Conv3d(1, classes, 3, padding=1)

        def compute_logits(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    torch.manual_seed(0)
    model = Narrow().eval()
    spacing = None if case.spacing is None else (case.spacing,) * 3
    model.preprocessing = segzoo.VolumePreprocessing(
        patch_size=case.patch, spacing=spacing, intensity="window", window=(-500, 900), mean=0, std=400
    )
    pipeline, seen = Pipeline(TorchBackend(model), overlap=case.overlap, keep=None), [0]
    pipeline.progressed = lambda: seen.__setitem__(0, seen[0] + 1)
    before = peak()
    ((job, outcome),) = segment_files(pipeline, plan(inputs_in(folder / "ct.nii"), folder / "masks", overlay=False))
    assert isinstance(outcome, str), outcome
    job.mask.unlink()
    read = pipeline.contract.grid(job.input.for_volumes(1).geometry)
    return {"windows": seen[0], "before": before, "peak": peak(), "grid": read}


def peak() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def page(options: argparse.Namespace, found: list[dict[str, Any]]) -> str:
    """Return what was measured, as a page."""
    import torch
    from measuring import machine

    def sides(values: Any) -> str:
        return " x ".join(map(str, values))

    voxels = int(np.prod(options.shape))
    text = HEADING.format(
        shape=sides(options.shape),
        classes=options.classes,
        machine=machine()["processor"],
        torch=torch.__version__,
        before=max(one["before"] for one in found) / GIB,
        whole=4 * options.classes * voxels / GIB,
    )
    for case, one in zip(CASES, found, strict=True):
        text += (
            f"| {sides(case.patch)} | {case.overlap:g} | {sides(one['grid'])} | {one['windows']:,} | "
            f"{one['peak'] / GIB:.2f} GiB |\n"
        )
    return text + END.format(slab=4 * (options.classes + 1) * 128 * options.shape[1] * options.shape[2] / GIB)


if __name__ == "__main__":
    main()
