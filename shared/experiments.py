"""Long experiments: every run is written down when it ends, and a call goes on where one stopped.

A results file holds what was asked, how it is made again, under which settings, on which machine,
and its runs. Notebooks show it; `python …/experiments.py NAME` makes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from types import ModuleType

from shared.artifacts import ROOT, written_whole
from shared.machine import machine_line

HELD = ("settings", "data")  # where one of these differs, old runs and new ones are no comparison


def keep_runs(
    path: str | Path,
    what: str,
    cases: Iterable[dict],
    run: Callable[..., dict],
    *,
    settings: dict,
    data: str | None = None,
    minutes: float = math.inf,
    **more: object,
) -> list[dict]:
    """Run every case that the file has not yet, write the file after each, and return all runs.

    A run is its case, what `run(**case)` returned, and its seconds. `settings` are what all runs
    share; `data` a number that changes with the data, such as `source_hash(shared.stories)`;
    `more` stands in the file as it is. After `minutes` no further run begins.

    Raises:
        ValueError: the file is damaged, or holds runs with other settings or data; it is left as
            it is.

    Example:
        >>> cases = [{"rate": rate, "seed": seed} for seed in (0, 1, 2) for rate in (0.01, 0.02)]
        >>> keep_runs(HERE / "results/rates.json", "Which rate?", cases, train, settings={})
        ... # doctest: +SKIP
    """
    path, until = Path(path).resolve(), time.monotonic() + 60 * minutes
    head = as_read({"what": what, "settings": settings, "data": data} | more)
    runs = runs_so_far(path, head)
    for case in as_read(list(cases)):
        if any(one.items() >= case.items() for one in runs):
            continue
        if time.monotonic() > until:
            print(f"{path.stem}: time is up; the same command goes on from here.")
            return runs
        print(f"{path.stem}: {', '.join(f'{k} {v}' for k, v in case.items())}", flush=True)
        start = time.perf_counter()
        one = case | run(**case)
        runs.append({"seconds": round(time.perf_counter() - start, 1)} | as_read(one))
        write_results(path, head | {"runs": runs})
    return runs


def as_read(content: object) -> object:
    """Content as it will stand in the file, where tuples are lists and keys are text."""
    return json.loads(json.dumps(content))


def runs_so_far(path: Path, head: dict) -> list[dict]:
    """The runs in a file. Raises: ValueError, if it is damaged or made under other settings."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text("utf-8"))
        found["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no results file ({error!r:.80}): it is empty, damaged or something else. "
            "Restore it (git checkout), or move it away to begin anew, and call again."
        ) from error
    if other := [name for name in HELD if found.get(name) != head[name]]:
        raise ValueError(
            f"{path} holds runs with other {' and '.join(other)} than those of this call, so "
            "they cannot be compared. To begin anew, delete it or move it away, and call again."
        )
    return found["runs"]


def write_results(path: str | Path, content: dict) -> None:
    """Write a results file whole or not at all, with this machine and today's date."""
    path = Path(path)
    held = {name: value for name, value in content.items() if value is not None}
    script = path.parent.parent / "experiments.py"
    made = {"machine": machine_line(), "date": str(date.today())}
    if script.exists():
        made["command"] = f"python {script.relative_to(ROOT)} {path.stem}"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(made | held, indent=1) + "\n", "utf-8")


def source_hash(*packages: ModuleType) -> str:
    """Twelve digits that change when the code or the word lists of these packages do."""
    folders = [Path(package.__file__).parent for package in packages]
    files = sorted(p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".tsv"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
