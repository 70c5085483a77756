"""A ledger of the reader's own runs: parameters, results and time, kept when a kernel ends."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from shared.artifacts import artifacts_folder, written_whole
from shared.figures import BLUE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

OWN_COLUMNS = ("run", "seconds", "date")


@dataclass(frozen=True)
class Run:
    """One line of a ledger."""

    run: int  # counts from 1; the number of a forgotten run is not given again
    parameters: dict[str, Any]  # what was set: numbers, bools, texts or None
    results: dict[str, float]  # what came out
    seconds: float
    date: str  # when it was entered: ISO 8601, UTC

    def __post_init__(self) -> None:
        if not isinstance(self.run, int) or not isinstance(self.seconds, int | float):
            raise TypeError(f"run {self.run!r} with seconds {self.seconds!r}: expected numbers")
        checked(self.parameters, self.results)
        datetime.fromisoformat(self.date)


def checked(parameters: Mapping[str, Any], results: Any) -> tuple[dict, dict[str, float]]:
    """Parameters and results as a ledger keeps them.

    Numbers of numpy and one-element tensors become Python's; a parameter of another kind than
    number, bool, text or None becomes its text.

    Raises:
        TypeError: `results` is no dict, or one of them is no number.
        ValueError: a name is used twice, or is one of the ledger's own: run, seconds, date.

    Example:
        >>> checked({"seed": 0}, {"loss": torch.tensor(2.5)})
        ({'seed': 0}, {'loss': 2.5})
    """
    if not isinstance(results, Mapping):
        raise TypeError(
            f"a run's results must be a dict of numbers, such as {{'loss': 2.5}}; got {results!r}"
        )
    taken = [name for name in parameters if name in (*OWN_COLUMNS, *results)]
    taken += [name for name in results if name in OWN_COLUMNS]
    if taken:
        raise ValueError(
            f"the name {taken[0]!r} is used twice: give parameters and results different names, "
            f"and none of {', '.join(OWN_COLUMNS)}, which the ledger fills in"
        )
    kept = {str(name): _parameter(value) for name, value in parameters.items()}
    return kept, {str(name): _number(name, value) for name, value in results.items()}


def _plain(value: Any) -> Any:
    """Python's own number for one of numpy or torch; anything else as it is."""
    try:
        return value.item()
    except (AttributeError, ValueError, RuntimeError):  # no such number, or more than one
        return value


def _number(name: str, value: Any) -> float:
    if not isinstance(_plain(value), int | float):
        raise TypeError(f"result {name!r} must be one number, got {value!r}")
    return _plain(value)


def _parameter(value: Any) -> Any:
    value = _plain(value)
    return value if value is None or isinstance(value, int | float | str) else str(value)


@dataclass(frozen=True)
class _Line:
    """A line of the file: it holds a run, or a note of the ledger's own, or cannot be read."""

    raw: bytes
    run: Run | None = None
    own: dict | None = None

    @property
    def damaged(self) -> bool:
        return bool(self.raw.strip()) and self.run is None and self.own is None

    def stays(self, gone: set[int]) -> bool:
        """Whether it stays in the file when these runs are forgotten; damaged lines do."""
        if self.run:
            return self.run.run not in gone
        return self.damaged or bool(self.own and "export" in self.own)


class Ledger:
    """Runs kept in `artifacts/ledgers/NAME.jsonl`, one line each.

    Every method looks into the file anew, so a ledger shows what another notebook has entered.
    A line that cannot be read (the machine went off while it was written) stays in the file and
    is left out of what is shown; `note` says so, and `table` prints it.

    Args:
        name: letters, digits, `_` and `-`.

    Raises:
        ValueError: the name has other characters.

    Example:
        >>> ledger = Ledger("my_experiment")
        >>> ledger.append({"learning_rate": 0.01}, {"loss": 2.5}, seconds=3.2)
        1
        >>> ledger.table()
             learning_rate  loss  seconds                      date
        run
        1             0.01   2.5      3.2 2026-03-01 10:20:30+00:00
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"a ledger's name has letters, digits, _ and - alone; got {name!r}")
        self.name = name

    @property
    def path(self) -> Path:
        """The file, whether there is one yet or not."""
        return artifacts_folder() / "ledgers" / f"{self.name}.jsonl"

    def append(self, parameters: Mapping[str, Any], results: Mapping, seconds: float) -> int:
        """Enter a run and return its number. Several notebooks may do so at once.

        Raises:
            TypeError, ValueError: as `checked`.
            OSError: the file cannot be written.
        """
        parameters, results = checked(parameters, results)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        with self._locked():
            number = self._last_number() + 1
            run = Run(number, parameters, results, round(float(seconds), 4), date)
            self._write_line(asdict(run))
        return number

    def runs(self) -> list[Run]:
        """All runs that can be read, the oldest first."""
        return [line.run for line in self._lines() if line.run]

    @property
    def note(self) -> str:
        """Which lines of the file cannot be read; empty if there are none."""
        bad = [str(i) for i, line in enumerate(self._lines(), 1) if line.damaged]
        if not bad:
            return ""
        which = f"line {bad[0]}" if len(bad) == 1 else f"lines {', '.join(bad)}"
        return (
            f"{which} of {self.path.name} cannot be read (half written, or changed by hand) and "
            "left out; the other runs are whole"
        )

    def table(self) -> pd.DataFrame:
        """A row for each run: parameters, results, seconds, date (UTC); nan where it has none."""
        if note := self.note:
            print("Note:", note)
        return as_frame(self.runs())

    def plot(self, x: str, y: str, ax: Axes | None = None) -> Axes:
        """A dot for each run that has both, with the run's number beside it.

        Args:
            x: a column of the table, or "run". Texts stand side by side.
            y: a column of numbers.
            ax: where to draw; a new figure if None.

        Raises:
            ValueError: there is no such column, or `y` is none of numbers.

        Example:
            >>> Ledger("ch06_claims").plot("num_claims", "accuracy")
        """
        frame = as_frame(self.runs()).reset_index()
        ax = plt.subplots()[1] if ax is None else ax
        if frame.empty:
            ax.set(title="No runs yet")
            return ax
        for column in (x, y):
            if column not in frame:
                raise ValueError(f"no column {column!r}; there are {', '.join(frame.columns)}")
        with_numbers = number_columns(frame)
        if y not in with_numbers:
            raise ValueError(f"{y!r} holds no numbers; choose of {', '.join(with_numbers)}")
        shown = frame[frame[x].notna() & frame[y].map(_is_finite)]
        across = shown[x]
        if x != "date" and x not in with_numbers:
            across = shown[x].map(lambda value: short(value, 24))
        down = shown[y].astype(float)
        ax.plot(across.to_list(), down.to_list(), "o", color=BLUE)
        for run, left, up in zip(shown["run"], across, down, strict=True):
            ax.annotate(str(run), (left, up), xytext=(5, 4), textcoords="offset points", fontsize=8)
        left_out = len(frame) - len(shown)
        title = f"{len(shown)} run{'' if len(shown) == 1 else 's'}"
        title += f", {left_out} without both left out" if left_out else ""
        ax.set(xlabel=x, ylabel=y, title=title)
        ax.margins(0.1)
        if x == "run":
            ax.xaxis.get_major_locator().set_params(integer=True)
        return ax

    def compare(self, runs: Iterable[int]) -> pd.DataFrame:
        """A column for each of these runs, a row for each thing in which they differ.

        Parameters come first, then results and seconds.

        Raises:
            ValueError: fewer than two runs, or one that the ledger does not hold.

        Example:
            >>> ledger.compare([1, 2])
            run               1     2
            learning_rate  0.01  0.02
            loss            2.5   2.1
            seconds         3.2   3.1
        """
        chosen = self._known(runs)
        if len(chosen) < 2:
            raise ValueError(f"choose at least two runs to compare; got {chosen}")
        picked = [{run.run: run for run in self.runs()}[number] for number in chosen]
        sides = [{**r.parameters, **r.results, "seconds": r.seconds} for r in picked]
        rows = {}
        for name in columns_of(picked)[:-1]:
            cells = [side.get(name) for side in sides]
            if len({"nan" if cell != cell else cell for cell in cells}) > 1:
                rows[name] = cells
        columns = pd.Index(chosen, name="run")
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=object)

    def export(self, path: str | Path | None = None, *, overwrite: bool = False) -> Path:
        """Write all runs as CSV and return where.

        Args:
            path: the file; `NAME.csv` beside the ledger if None.
            overwrite: replace what is there, whatever it is. Without it, only a file that this
                ledger wrote and nobody has changed since is replaced.

        Raises:
            ValueError: there are no runs.
            FileExistsError: there is such a file, and it is not this ledger's own.
        """
        runs = self.runs()
        if not runs:
            raise ValueError(f"the ledger {self.name!r} holds no runs: there is nothing to export")
        path = Path(self.path.with_suffix(".csv") if path is None else path).resolve()
        content = _as_csv(runs)
        with self._locked():
            if path.exists() and not overwrite and not self._is_own(path):
                raise FileExistsError(
                    f"{path.name} exists and was not written by the ledger {self.name!r}, or was "
                    "changed since; give another path, or overwrite=True to replace it"
                )
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
            if not self._is_own(path):
                self._write_line({"export": str(path), "sha256": _digest(content)})
        return path

    def forget(self, runs: Iterable[int] | None = None) -> int:
        """Remove these runs from the file, or all; return how many. They cannot be brought back.

        Raises:
            ValueError: the ledger does not hold one of them.
        """
        with self._locked():
            gone = {run.run for run in self.runs()} if runs is None else set(self._known(runs))
            last = {"last_run": self._last_number()}
            kept = [line.raw for line in self._lines() if line.stays(gone)]
            if gone:
                with written_whole(self.path) as temporary:
                    temporary.write_bytes(b"\n".join([*kept, _line(last)]))
        return len(gone)

    def __repr__(self) -> str:
        return f"Ledger({self.name!r}), {len(self.runs())} runs"

    # The file

    def _lines(self) -> list[_Line]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return [_read(raw) for raw in content.split(b"\n")]

    def _last_number(self) -> int:
        lines = self._lines()
        noted = [line.own["last_run"] for line in lines if line.own and "last_run" in line.own]
        return max([0, *noted, *(line.run.run for line in lines if line.run)])

    def _known(self, runs: Iterable[int]) -> list[int]:
        known, chosen = [run.run for run in self.runs()], list(dict.fromkeys(runs))
        missing = [number for number in chosen if number not in known]
        if missing:
            raise ValueError(f"no run {missing[0]!r} in the ledger {self.name!r}; it holds {known}")
        return chosen

    def _is_own(self, path: Path) -> bool:
        written = [line.own for line in self._lines() if line.own and "export" in line.own]
        digests = {note["sha256"] for note in written if note["export"] == str(path)}
        return path.is_file() and _digest(path.read_bytes()) in digests

    def _write_line(self, content: dict) -> None:
        """Append one line in one go; after a half-written one, on a line of its own."""
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            whole = file.read() in (b"", b"\n")
            file.write((b"" if whole else b"\n") + _line(content))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time; the system frees the lock of one that dies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "ab") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
            else:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_UN)
                else:
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


def short(value: Any, longest: int = 40) -> str:
    """A value as a table shows it: four digits, and no more than `longest` characters.

    Example:
        >>> short(0.123456), short(12_000.0), short(None)
        ('0.1235', '12000', '')
    """
    if value is None or value is pd.NaT:
        return ""
    is_float = isinstance(value, float) and math.isfinite(value)
    whole = is_float and float(value).is_integer()
    text = f"{value:.0f}" if whole else f"{value:.4g}" if is_float else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def number_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that hold numbers; missing ones do not matter, bools are none."""
    is_number = lambda value: isinstance(value, numbers.Real) and not isinstance(value, bool)
    found = []
    for name in frame.columns:
        cells = [cell for cell in frame[name] if cell is not None]
        if name != "date" and cells and all(map(is_number, cells)):
            found.append(name)
    return found


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def as_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run, its number as the index; nan where a run has no such thing."""
    rows = [{**r.parameters, **r.results, "seconds": r.seconds, "date": r.date} for r in runs]
    index = pd.Index([run.run for run in runs], name="run", dtype="int64")
    frame = pd.DataFrame(rows, index=index, columns=columns_of(runs))
    frame["date"] = pd.to_datetime(frame["date"], utc=True, format="ISO8601")
    return frame.astype({"seconds": "float64"})


def columns_of(runs: Sequence[Run]) -> list[str]:
    """Every parameter in the order in which they came, every result, seconds, date."""
    names = [name for run in runs for name in run.parameters]
    names += [name for run in runs for name in run.results]
    return [*dict.fromkeys(names), "seconds", "date"]


def _line(content: dict) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _read(raw: bytes) -> _Line:
    try:
        found = json.loads(raw)
        if found.keys() == {"last_run"} and isinstance(found["last_run"], int):
            return _Line(raw, own=found)
        if found.keys() == {"export", "sha256"}:
            return _Line(raw, own=found)
        return _Line(raw, run=Run(**found))
    except (ValueError, TypeError, AttributeError):
        return _Line(raw)


def _as_csv(runs: Sequence[Run]) -> bytes:
    text, columns = io.StringIO(), ["run", *columns_of(runs)]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for r in runs:
        row = {"run": r.run, **r.parameters, **r.results, "seconds": r.seconds, "date": r.date}
        writer.writerow(row)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
