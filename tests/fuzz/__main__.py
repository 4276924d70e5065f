"""Long fuzzing: ``python -m tests.fuzz`` runs thousands of commands on odd input and prints a table by kind.

Each kind runs in processes of its own, so that one that ends by a signal costs one case. What failed is printed so that
it can go into examples.py as it is.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.fuzz.kinds import KINDS
from tests.fuzz.materials import checkpoint, exported, volume_checkpoint
from tests.fuzz.oracle import Broken, Case, judge

CASES = 500  # of each kind
FEW = settings(  # of one seed: Hypothesis draws most of many as neighbours of each other
    max_examples=4,
    phases=[Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MEMORY = 10 * 2**30  # bytes that a process may address: what asks for more is to be refused, not to fill the machine


def fuzz(kind: str, cases: int, number: int, notes: Path) -> None:
    """Judge cases of one kind, and note the outcome of each before the next begins."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for make in (checkpoint, volume_checkpoint, exported):
        make()
    judged: set[str] = set()
    with notes.open("a", buffering=1) as noted:

        def run(case: Case) -> None:
            if len(judged) == cases or repr(case) in judged:
                return
            judged.add(repr(case))
            noted.write(json.dumps(["begun", repr(case)]) + "\n")
            noted.write(json.dumps([*outcome_of(case), repr(case)]) + "\n")

        while len(judged) < cases:
            number += 1
            seed(number)(FEW(given(KINDS[kind])(run)))()


def outcome_of(case: Case) -> tuple[str, ...]:
    """Return what is to be noted of a case."""
    folder = Path(tempfile.mkdtemp(prefix="segzoo-fuzz-"))
    begun = time.monotonic()
    try:
        outcome: tuple[str, ...] = (judge(case, folder), "")
    except Broken as broken:
        outcome = "failed", str(broken)
    except Exception as error:  # a check that does not hold, or one that does not know the case
        outcome = "failed", f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return (*outcome, f"{time.monotonic() - begun:.1f}")


def fuzz_in_processes(kind: str, cases: int, number: int, notes: Path) -> None:
    """Judge so many cases of a kind; a process that ends early is followed by another, with other cases."""
    done = 0
    while done < cases:
        command = [sys.executable, "-m", "tests.fuzz", "--kind", kind, "--cases", str(cases - done)]
        command += ["--seed", str(number + 1000 * done), "--notes", str(notes)]
        errors = notes.with_suffix(".stderr")
        with errors.open("wb") as stderr:
            ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=stderr, check=False).returncode
        *_, last = notes.read_text().splitlines() or ["null"]
        if (last := json.loads(last)) and last[0] == "begun":
            with notes.open("a") as noted:
                said = errors.read_text(errors="replace")[-2000:]
                noted.write(json.dumps(["failed", f"process ended with {ended}\n{said}", "", last[1]]) + "\n")
        elif ended:
            raise SystemExit(f"{kind}: {errors.read_text(errors='replace')[-2000:]}")
        new = len(notes.read_text().splitlines()) // 2
        if new == done:
            return
        done = new if ended else cases


def report(kind: str, notes: Path, failures: dict[str, tuple[int, str, str]]) -> str:
    """Return a kind's row of the table, and add its failures: by fault, how often, the shortest case, what it said."""
    outcomes = [line for line in map(json.loads, notes.read_text().splitlines()) if line[0] != "begun"]
    counted = Counter(outcome[0] for outcome in outcomes)
    slowest = max((float(outcome[2] or 0) for outcome in outcomes), default=0)
    for _, said, _, case in (outcome for outcome in outcomes if outcome[0] == "failed"):
        fault = f"{kind}: {said.partition(chr(10))[0][:150]}"
        count, shortest, text = failures.get(fault, (0, case, said))
        failures[fault] = (count + 1, *min((shortest, text), (case, said), key=lambda one: len(one[0])))
    columns = (len(outcomes), counted["right"], counted["refused"], counted["failed"], f"{slowest:.0f} s")
    return f"| {kind} | " + " | ".join(map(str, columns)) + " |"


def main() -> None:
    """Fuzz every kind, or as one of its processes a single one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="of each kind")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this one (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other cases")
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.notes:
        fuzz(*options.kind, options.cases, options.seed, options.notes)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failures: dict[str, tuple[int, str, str]] = {}
    print(
        "| input | cases | right | refused | failed | slowest |", "| --- | ---: | ---: | ---: | ---: | ---: |", sep="\n"
    )
    with tempfile.TemporaryDirectory(prefix="segzoo-fuzz-") as folder:
        for kind in options.kind or KINDS:
            notes = Path(folder, f"{kind}.jsonl".replace(" ", "-"))
            notes.touch()
            fuzz_in_processes(kind, options.cases, options.seed, notes)
            print(report(kind, notes, failures), flush=True)
    for fault, (count, case, said) in failures.items():
        print(
            f"\n{fault} ({count} times)\n    {case[:2000]}\n"
            + "\n".join(f"        {x}" for x in said.splitlines()[-12:])
        )
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
