"""Measure what the course promises: `make bench`, or `python -m tests.benchmarks NAME…`.

Each `bench_NAME.py` beside this file has a function `rows()` that returns a list of dicts: figure
(what is measured), bar (what it must reach), measured, met (True, False, or None where it cannot
be measured here) and note. Times are compared within one run, so they hold on any machine. All
rows are printed; a run of all benchmarks also writes them to results.md.
"""

from __future__ import annotations

import importlib
import platform
import sys
import time
from datetime import date
from pathlib import Path

from shared.artifacts import written_whole
from shared.machine import machine_line

HERE = Path(__file__).parent
COLUMNS = ("figure", "bar", "measured", "met", "note")


def machine() -> str:
    """One line on what all this was measured on."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return f"{machine_line()}; GPU: {gpu}; Python {platform.python_version()}"


def names() -> list[str]:
    """All benchmarks there are."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def measure(name: str) -> list[dict]:
    """The rows of one benchmark; where it fails, one row that says how."""
    try:
        rows = importlib.import_module(f"{__package__}.bench_{name}").rows()
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        rows = [{"figure": name, "measured": "failed", "met": False, "note": what}]
    for row in rows:
        unknown = set(row) - set(COLUMNS)
        if unknown:
            raise ValueError(f"bench_{name}: unknown column {sorted(unknown)}; use {COLUMNS}")
    return rows


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table, its columns aligned."""
    met = {True: "yes", False: "NO", None: "–"}
    lines = [COLUMNS]
    for row in rows:
        cells = [row.get(column, "") for column in COLUMNS]
        cells[3] = met[row.get("met")]
        lines.append(tuple(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    lines.insert(1, tuple("-" * width for width in widths))
    padded = (" | ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)) for x in lines)
    return "\n".join(f"| {line} |" for line in padded)


def main(wanted: list[str]) -> int:
    """Measure, print, write; 1 if a bar was missed."""
    unknown = set(wanted) - set(names())
    if unknown:
        print(f"no benchmark called {sorted(unknown)}; there are {names()}", file=sys.stderr)
        return 2
    rows: list[dict] = []
    for name in wanted or names():
        print(f"{name} …", end=" ", flush=True)
        start = time.perf_counter()
        rows += measure(name)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{table(rows)}\n\n{machine()}")
    if not wanted:
        text = f"# Measured by `make bench` on {date.today()}\n\n{machine()}\n\n{table(rows)}\n"
        with written_whole(HERE / "results.md") as temporary:
            temporary.write_text(text, "utf-8")
    return int(any(row.get("met") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
