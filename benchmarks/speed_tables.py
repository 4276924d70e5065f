"""Page of `speed.py`: what several runs have in common, then each by itself."""

import itertools
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from contestants import ALL, ATTENTION, PEER, VOLUME_PEER, ZOO
from quality import markdown
from speed_runs import UNKNOWN, Row, Run, newest_date, part_of, setting

HEADING = """# Speed

Written by `python benchmarks/speed.py` from the runs in `benchmarks/results/speed/`: change nothing here by hand. What
it says in words is in [docs/benchmarks.md](../docs/benchmarks.md#speed)."""
FLOAT32 = ("eager", "deploy", "torch-export", "onnxruntime", "openvino", "compile")
LOW = (
    "eager, channels last",
    "deploy, channels last",
    "eager, float16, channels last",
    "deploy, float16, channels last",
    "compile, float16, channels last",
    "eager, bfloat16, channels last",
    "deploy, bfloat16, channels last",
    "openvino, bfloat16",
)
FORMS = FLOAT32 + LOW
EQUAL = {"float16": 1e-2, "bfloat16": 1e-1}  # of the largest output; what differs more has no place in a table
EQUAL_IN_FLOAT32 = 1e-4

Chosen = dict[tuple[str, str], Row]  # name, form -> what was measured


def page(runs: list[Run]) -> str:
    """Return the whole page, of runs in their order."""
    named = {letter_of(number): run for number, run in enumerate(runs)}
    parts = [HEADING, "## Runs", runs_table(named)]
    for kind, heading in {"cpu": "## All processors", "cuda": "## All GPUs"}.items():
        if alike := {letter: run for letter, run in named.items() if run["kind"] == kind}:
            parts += [heading, *all_machines(alike)]
    for letter, run in named.items():
        parts += [f"## Run {letter}: {run['device']}", section(run)]
    return "\n\n".join(filter(None, parts)) + "\n"


def letter_of(number: int) -> str:
    """Return the name of a run: A to Z, then A1 and so on."""
    round_, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(round_) if round_ else "")


def runs_table(named: dict[str, Run]) -> str:
    """Return what each run was measured on."""
    head = ["run", "on", "release", "date", "cores", "processor's features", "packages"]
    head += ["two threads make a product faster by", "noise"]
    lines = [
        [
            letter,
            run["device"],
            str(run["release"]),
            dates(run),
            str(run["cores"]),
            " ".join(run["features"]) if isinstance(run["features"], list) else run["features"],
            packages(run),
            gain(run),
            noise(run["rows"]),
        ]
        for letter, run in named.items()
    ]
    note = (
        "Noise is the distance between the quartiles of the rounds, of their median, in the middle of all networks and "
        f'forms. What a run did not record is "{UNKNOWN}".'
    )
    return f"{markdown(head, lines, left=7)}\n\n{note}"


def dates(run: Run) -> str:
    """Return the day of a run, or its first and last."""
    days = sorted({row.get("date", UNKNOWN)[: len("2026-01-31")] for row in (*run["rows"], *run.get("releases", []))})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else UNKNOWN


def packages(run: Run) -> str:
    """Return the versions of what has computed."""
    others = run["packages"]
    if not isinstance(others, dict):
        return f"torch {run['torch']}; others {others}"
    return ", ".join([f"torch {run['torch']}", *(f"{name} {version}" for name, version in others.items())])


def gain(run: Run) -> str:
    """Return how many times as fast two threads made a matrix product."""
    gains = [row["gain_of_threads"] for row in run["rows"] if row.get("threads") == 2 and row.get("gain_of_threads")]
    return f"{statistics.median(gains):.2f}" if gains else UNKNOWN


def noise(rows: Iterable[Row]) -> str:
    """Return how far the rounds of one network lie apart, in the middle of many."""
    spreads = [spread(row) for row in rows if "quartiles" in row]
    return f"{100 * statistics.median(spreads):.0f} %" if spreads else UNKNOWN


def spread(row: Row) -> float:
    low, high = row["quartiles"]
    return (high - low) / row.get("ratio", row["seconds"])


# ---- all machines


def all_machines(named: dict[str, Run]) -> list[str]:
    """Return tables of ratios: of each run and, in the median, of each machine's newest run that has the table."""
    note = (
        "How many times as fast as the first peer a network is; with several machines the median of the newest such "
        "run of each, and from the least to the most. Best / best compares the fastest forms in float32."
    )
    parts = [note]
    for (shape, threads), tables in itertools.groupby(tables_of(named, "forms"), key=lambda one: one[0]):
        found = {letter: chosen for _, letter, chosen in tables}
        parts.append(f"**{title(shape, threads)}**\n\n{merged_forms(found, newest_of_each(named, found))}")
    for (shape, threads), tables in itertools.groupby(tables_of(named, "training"), key=lambda one: one[0]):
        found = {letter: chosen for _, letter, chosen in tables}
        heading = f"**A step of training, {title(shape, threads)}**"
        parts.append(f"{heading}\n\n{merged_training(found, newest_of_each(named, found))}")
    if growth := merged_growth(named):
        parts.append(f"**As the image grows: time of softmax attention, that of Bi-WKV being 1**\n\n{growth}")
    return parts


def newest_of_each(named: dict[str, Run], letters: Iterable[str]) -> set[str]:
    """Return of these runs the newest of each machine."""
    first: dict[str, str] = {}
    for letter in sorted(letters, key=lambda one: newest_date(named[one]), reverse=True):
        first.setdefault(named[letter]["device"], letter)
    return set(first.values())


def tables_of(named: dict[str, Run], part: str) -> list[tuple[Any, str, Chosen]]:
    """Return the tables of all runs, by what they compare."""
    found = [
        (setting, letter, chosen) for letter, run in named.items() for setting, chosen in chosen_of(run, part).items()
    ]
    return sorted(found, key=lambda one: (order_of(*one[0]), one[1]))


def chosen_of(run: Run, part: str) -> dict[Any, Chosen]:
    """Return the tables of one run."""
    rows = [row for row in run["rows"] if part_of(row) == part]
    settings = sorted(set(map(setting, rows)), key=lambda one: order_of(*one))
    return {one: {(row["name"], row["form"]): row for row in rows if setting(row) == one} for one in settings}


def order_of(shape: tuple[int, ...], threads: int) -> Any:
    """Return the place of a table: images first, small ones first, more threads first."""
    return len(shape), shape[2], shape[0], -threads


def title(shape: tuple[int, ...], threads: int) -> str:
    what = "image" if len(shape) == 4 else "patch"
    count = f"1 {what}" if shape[0] == 1 else f"{shape[0]} {what}s".replace("patchs", "patches")
    return f"{count} of {' x '.join(map(str, shape[2:]))}, {threads} thread{'s' * (threads > 1)}"


def merged_forms(found: dict[str, Chosen], newest: set[str]) -> str:
    """Return the ratios of several runs, best against best and by form."""
    forms = [form for form in FORMS if any(key[1] == form for chosen in found.values() for key in chosen)]
    peer = peer_of(next(iter(next(iter(found.values())).values())))
    columns: list[tuple[str, Callable[[Chosen, str], float | None]]] = [("best / best", best_ratio)]
    columns += [(form, lambda chosen, name, form=form: form_ratio(chosen, name, form)) for form in forms]  # type: ignore[misc]
    lines = []
    for name in names_in(found.values()):
        own = [cell(best_ratio(chosen, name)) for chosen in found.values()]
        merged = [
            together([ratio(chosen, name) for letter, chosen in found.items() if letter in newest])
            for _, ratio in columns
        ]
        lines.append([name, merged[0], *own, *merged[1:]])
    head = [f"times as fast as {peer}", "best / best", *(f"run {letter}" for letter in found), *forms]
    return markdown(head, lines)


def merged_training(found: dict[str, Chosen], newest: set[str]) -> str:
    """Return the times of a step, that of the peer being 1, of several runs."""
    peer = peer_of(next(iter(next(iter(found.values())).values())))
    forms = sorted({form for chosen in found.values() for _, form in chosen})
    lines = []
    for name in names_in(found.values()):
        for form in forms:
            times = {letter: step_ratio(chosen, name, form) for letter, chosen in found.items()}
            if any(times.values()):
                merged = together([time for letter, time in times.items() if letter in newest])
                said = name if form == "training" else f"{name}, {form.partition(', ')[2]}"
                lines.append([said, merged, *map(cell, times.values())])
    return markdown([f"time, that of {peer} being 1", "all", *(f"run {letter}" for letter in found)], lines)


def merged_growth(named: dict[str, Run]) -> str:
    """Return how many times as long attention takes as Bi-WKV, by run."""
    ratios = {letter: growth_ratios(run["rows"]) for letter, run in named.items()}
    sides = sorted({side for found in ratios.values() for side in found})
    lines = [[f"run {letter}", *(cell(found.get(side)) for side in sides)] for letter, found in ratios.items() if found]
    return markdown(["", *(f"{side} x {side}" for side in sides)], lines) if lines else ""


def names_in(tables: Iterable[Chosen]) -> list[str]:
    """Return the networks of some tables, in the zoo's order and the peers'."""
    there = {name for chosen in tables for name, _ in chosen}
    return [name for name in ALL if name in there]


def together(ratios: list[float | None]) -> str:
    """Return the median of several machines, with the least and the most."""
    known = [ratio for ratio in ratios if ratio]
    if not known:
        return "-"
    middle, least, most = (cell(figure) for figure in (statistics.median(known), min(known), max(known)))
    return middle if least == most else f"{middle} ({least} to {most})"


def cell(figure: float | None) -> str:
    return f"{figure:.2f}" if figure else "-"


# ---- ratios


def peer_of(row: Row) -> str:
    """Return what all others in a row's table are relative to."""
    return PEER if len(row["shape"]) == 4 else VOLUME_PEER


def seconds(chosen: Chosen, name: str, form: str) -> float | None:
    """Return the time of a form whose output is that of the eager network."""
    found = chosen.get((name, form), {})
    equal = next((EQUAL[part] for part in form.split(", ") if part in EQUAL), EQUAL_IN_FLOAT32)
    return found.get("seconds") if (found.get("difference") or 0) <= equal else None


def best(chosen: Chosen, name: str) -> float | None:
    """Return the time of the fastest form in float32."""
    return min(filter(None, (seconds(chosen, name, form) for form in FLOAT32)), default=None)


def over(slow: float | None, fast: float | None) -> float | None:
    return slow / fast if slow and fast else None


def best_ratio(chosen: Chosen, name: str) -> float | None:
    """Return how many times as fast as the peer a network is, best against best."""
    return over(best(chosen, peer_in(chosen)), best(chosen, name))


def form_ratio(chosen: Chosen, name: str, form: str) -> float | None:
    """Return how many times as fast as the peer a network is in the same form; a peer has none deployed."""
    return over(seconds(chosen, peer_in(chosen), form.replace("deploy", "eager")), seconds(chosen, name, form))


def step_ratio(chosen: Chosen, name: str, form: str) -> float | None:
    """Return a step's time, that of the peer being 1."""
    return over(*(chosen.get((one, form), {}).get("seconds") for one in (name, peer_in(chosen))))


def peer_in(chosen: Chosen) -> str:
    return peer_of(next(iter(chosen.values())))


def growth_ratios(rows: Iterable[Row]) -> dict[int, float | None]:
    """Return attention's time by Bi-WKV's, by the side of the image."""
    times = growth_times(rows)
    return {side: over(times[ATTENTION, side], times["Med-URWKV", side]) for name, side in times if name == ATTENTION}


def growth_times(rows: Iterable[Row]) -> dict[tuple[str, int], float | None]:
    return {(row["name"], row["growth"]): row.get("seconds") for row in rows if "growth" in row}


# ---- one run


def section(run: Run) -> str:
    """Return all tables of one run."""
    rows = run["rows"]
    parts = [
        f"**{title(*one)}, medians of {rounds_of(chosen)} rounds**\n\n{speed_table(chosen)}"
        for one, chosen in chosen_of(run, "forms").items()
    ]
    parts += [
        f"**A step of training, {title(*one)}**\n\n{training_table(chosen)}"
        for one, chosen in chosen_of(run, "training").items()
    ]
    parts += [growth_table(rows), mixing_table(rows), releases(run.get("releases", []))]
    return "\n\n".join(filter(None, parts))


def rounds_of(chosen: Chosen) -> int:
    return min((row["rounds"] for row in chosen.values() if "rounds" in row), default=0)


def speed_table(chosen: Chosen) -> str:
    """Return how many times as fast as the peer a network is, in each form."""
    forms = [form for form in FORMS if any(key[1] == form for key in chosen)]
    gained = [form for form in forms if not form.startswith(("eager", "compile"))]
    lines = []
    for name in names_in([chosen]):
        cells = [cell(form_ratio(chosen, name, form)) for form in forms]
        own = [cell(over(seconds(chosen, name, not_deployed(form)), seconds(chosen, name, form))) for form in gained]
        megabytes = [chosen[name, form]["megabytes"] for form in forms if "megabytes" in chosen.get((name, form), {})]
        least = str(min(megabytes)) if megabytes else "-"
        lines.append([name, *cells, cell(best_ratio(chosen, name)), *own, least, *best_facts(chosen, name)])
    head = [f"times as fast as {peer_in(chosen)}", *forms, "best / best"]
    head += [f"{form.replace('deploy', 'eager')}: deployed / not" for form in gained]
    return markdown([*head, "MB, least", "ms, best", "processor / wall, best", "noise, best"], lines)


def best_facts(chosen: Chosen, name: str) -> list[str]:
    """Return a network's fastest form in milliseconds, its processor time by its wall time, and its noise."""
    fastest = best(chosen, name)
    row = next((chosen[name, form] for form in FLOAT32 if seconds(chosen, name, form) == fastest), {})
    if not fastest:
        return ["-"] * 3
    return [f"{1e3 * fastest:.1f}", cell(over(row.get("processor_seconds"), fastest)), noise([row])]


def not_deployed(form: str) -> str:
    """Return the form of a network that was not deployed before it came into this one."""
    return form.replace("deploy", "eager") if form.startswith("deploy") else f"{form}, not deployed"


def training_table(chosen: Chosen) -> str:
    """Return what a step of training takes, beside the peer's."""
    lines = []
    for name in names_in([chosen]):
        for form in (form for one, form in chosen if one == name):
            row = chosen[name, form]
            said = name if form == "training" else f"{name}, {form.partition(', ')[2]}"
            if "seconds" in row:
                processor = cell(over(row.get("processor_seconds"), row["seconds"]))
                cells = [cell(step_ratio(chosen, name, form)), str(row["megabytes"]), f"{1e3 * row['seconds']:.0f}"]
                lines.append([said, *cells, processor, noise([row])])
    return markdown(["", f"time, that of {peer_in(chosen)} being 1", "MB", "ms", "processor / wall", "noise"], lines)


def growth_table(rows: list[Row]) -> str:
    """Med-URWKV's time as the image grows, against attention's."""
    times = growth_times(rows)
    sides = sorted({side for _, side in times})
    if not sides:
        return ""
    lines = [
        [name, *(cell(over(times.get((name, side)), times.get((name, sides[0])))) for side in sides)]
        for name in ("Med-URWKV", ATTENTION)
    ]
    ratios = growth_ratios(rows)
    lines.append(["attention / Bi-WKV", *(cell(ratios.get(side)) for side in sides)])
    header = [f"time, that of {sides[0]} x {sides[0]} being 1", *(f"{side} x {side}" for side in sides)]
    return f"**As the image grows**\n\n{markdown(header, lines)}"


def mixing_table(rows: list[Row]) -> str:
    """Bi-WKV alone beside what else mixes as many tokens."""
    mixed = [row for row in rows if "tokens" in row]
    if not mixed:
        return ""
    lines = [
        [row["name"], str(row["tokens"]), f"{1e3 * row['seconds']:.2f}", f"{1e3 * row['both']:.2f}"] for row in mixed
    ]
    head = [f"one sequence of {mixed[0]['channels']} channels", "tokens", "forward, ms", "with its backward pass, ms"]
    return f"**Bi-WKV alone**\n\n{markdown(head, lines)}"


# ---- releases


def releases(rows: list[Row]) -> str:
    """Return the ratios to other releases, as stored."""
    parts = []
    for than, part in sorted({(row["than"], part_of(row)) for row in rows}):
        chosen = [row for row in rows if (row["than"], part_of(row)) == (than, part)]
        what = "A step of training" if part == "training" else "A pass"
        parts.append(f"**{what}: time, that of release {than} being 1 (and on the processor)**")
        parts.append(release_table(chosen))
    return "\n\n".join(parts)


def release_table(rows: list[Row]) -> str:
    """Return the ratios of one part to one release, with the best forms of both beside each other."""
    forms = list(dict.fromkeys(row["form"] for row in rows))
    lines = []
    for one in sorted({setting(row) for row in rows}, key=lambda one: order_of(*one)):
        for name in [name for name in ZOO if any(row["name"] == name and setting(row) == one for row in rows)]:
            found = {row["form"]: row for row in rows if (row["name"], setting(row)) == (name, one)}
            cells = [
                f"{found[form]['ratio']:.3f} ({found[form]['processor_ratio']:.3f})"
                if "ratio" in found.get(form, {})
                else "-"
                for form in forms
            ]
            lines.append([name, title(*one), *cells, best_of_both(found.values()), noise(found.values())])
    return markdown(["", "input", *forms, "best / best", "noise"], lines, left=2)


def best_of_both(rows: Iterable[Row]) -> str:
    """Return this release's fastest form by the other's."""
    times = [row["seconds"] for row in rows if "seconds" in row and part_of(row) == "forms"]
    return f"{min(mine for mine, _ in times) / min(theirs for _, theirs in times):.3f}" if times else "-"


def times(rows: list[Row]) -> str:
    """Return what was measured just now, in milliseconds."""
    lines = []
    for row in (row for row in rows if "form" in row):
        found = [row.get("failure", ""), *["-"] * 4]
        if "seconds" in row:
            found = [f"{1e3 * row[time]:.1f}" for time in ("seconds", "processor_seconds")]
            found += [str(row["rounds"]), noise([row]), str(row["megabytes"])]
        lines.append([row["name"], row["form"], title(*setting(row)), *found])
    return markdown(["", "form", "input", "ms", "processor ms", "rounds", "noise", "MB"], lines, left=3)
