"""Runs of `speed.py`: a file for each machine and release, and what its figures depend on.

A run replaces what the same machine had measured of the same release, table by table, and nothing else. What a file
does not say, since it was written before that was recorded, is `UNKNOWN`.
"""

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from measuring import machine

RUNS = Path(__file__).parent / "results" / "speed"
CPUINFO = Path("/proc/cpuinfo")  # of Linux
UNKNOWN = "unknown"
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "onnxruntime",
    "openvino",
    "monai",
    "segmentation-models-pytorch",
)
FEATURES = (  # of processors, as Linux calls them: what decides how fast one multiplies, and in which precision
    *("avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm"),
)

Row = dict[str, Any]  # name, form, shape, threads; what was measured, or failure
Run = dict[str, Any]


# ---- where and what


def facts(device: str) -> Run:
    """Return what speed depends on.

    Args:
        device: "cpu" or "cuda".
    """
    processor = str(machine()["processor"])
    found = {
        "kind": device,
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "processor": processor,
        "features": features_of(CPUINFO),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "release": release_of(own_source()),
        "torch": torch.__version__,
        "packages": {name: version_of(name) for name in PACKAGES[1:]},
    }
    if device == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        found["packages"] |= {"triton": version_of("triton"), "cuda": torch.version.cuda, "capability": capability}
    return found


def features_of(cpuinfo: Path) -> list[str] | str:
    """Return what the processor can, of `FEATURES`."""
    if not cpuinfo.is_file():
        return UNKNOWN
    named = re.search(r"^(flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.M)
    return [name for name in FEATURES if name in named[2].split()] if named else UNKNOWN


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def this_minute() -> str:
    """Return the date and the time, by which runs of one day are told apart."""
    return datetime.now(UTC).isoformat(timespec="minutes")


def own_source() -> Path:
    """Return the folder that segzoo is imported from."""
    import segzoo

    return Path(segzoo.__file__).resolve().parents[1]


def release_of(source: Path) -> str:
    """Return the version in a folder and, where git knows it, the commit, with "+" where files are not as in that.

    Args:
        source: that `segzoo` lies in, such as the `src` of a checkout.

    Raises:
        SystemExit: it does not.
    """
    init = source / "segzoo" / "__init__.py"
    if not init.is_file():
        raise SystemExit(f"speed.py: there is no segzoo in {source}; give the folder src of a checkout")
    named = re.search(r'^__version__ = "(.+)"$', init.read_text(encoding="utf-8"), re.M)
    version = named[1] if named else UNKNOWN
    if git(source, "ls-files", "segzoo/__init__.py") is None:
        return version
    commit = git(source, "rev-parse", "--short", "HEAD")
    changed = git(source, "status", "--porcelain", "--", "segzoo")
    return f"{version} ({commit}{'+' if changed else ''})"


def git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, or None where it says nothing or is not there."""
    try:
        said = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None


# ---- what is stored


def read_runs(folder: Path = RUNS) -> list[Run]:
    """Return all runs, the newest first."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return sorted(runs, key=newest_date, reverse=True)


def newest_date(run: Run) -> str:
    """Return the last day of a run; what is unknown is older than all others."""
    return max((row.get("date", "") for row in (*run["rows"], *run.get("releases", []))), default="")


def file_of(run: Run, folder: Path = RUNS) -> Path:
    """Return the file of a machine and a release."""
    return folder / f"{plain(run['device'])}-{plain(run['release'])}.json"


def plain(text: str) -> str:
    """Return a name for files."""
    return re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")


def store(run: Run, rows: list[Row], releases: list[Row], folder: Path = RUNS) -> Path:
    """Add what was measured to the run's file; it replaces what the same machine measured of the same release.

    Args:
        run: its facts.
        rows: whole tables.
        releases: ratios to other releases.
        folder: of all runs.
    """
    path = file_of(run, folder)
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if any(stored.get(key) != value for key, value in run.items()):  # with other packages
        stored = {}
    replaced = set(map(table_of, rows))
    kept = [row for row in stored.get("rows", []) if table_of(row) not in replaced]
    compared = set(map(comparison_of, releases))
    others = [row for row in stored.get("releases", []) if comparison_of(row) not in compared]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**run, "rows": kept + rows, "releases": others + releases}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def part_of(row: Row) -> str:
    """Return which part of `speed.py run` a row is of."""
    if "growth" in row:
        return "growth"
    if "tokens" in row:
        return "bi-wkv"
    return "training" if row["form"].startswith("training") else "forms"


def setting(row: Row) -> tuple[tuple[int, ...], int]:
    """Return what is compared in one table: the input's shape, and the threads."""
    return tuple(row["shape"]), row["threads"]


def table_of(row: Row) -> Any:
    """Return which table a row belongs to; all rows of one are of one run."""
    return part_of(row), *(setting(row) if part_of(row) in ("forms", "training") else ())


def comparison_of(row: Row) -> Any:
    """Return what a ratio to another release is of."""
    return row["than"], row["name"], row["form"], setting(row)
