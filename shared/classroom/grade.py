"""Grade a folder of submissions: each in a jail of its own, two at a time.

nbgrader's cell format is kept and its own `autograde` works too (see release.py), but this is
what `grade` does: nbgrader takes the absence of an error for success, gives nothing to a notebook
whose kernel dies, keeps all outputs, and begins from the start when interrupted.

Each student's result is written whole as `graded/STUDENT/chNN.json` as soon as it is known, with
digests of the submission and of the key, so an interrupted run goes on where it stopped and
only what has changed is graded again.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import matplotlib

from shared.artifacts import ROOT, written_whole
from shared.classroom import submissions
from shared.classroom.jail import Limits, probe, refuse_if_seen
from shared.classroom.kernel import Cage, Gone, Kernel, TooLong
from shared.classroom.release import write_course
from shared.classroom.submissions import Key, Step, Unreadable, digest_of

WORKERS = 2
RESTARTS = 4  # fresh kernels for one submission
MUCH = 10 << 20  # characters printed that are worth a word
UNANSWERED = "not answered yet"  # as shared/exercises/checking.py says it
VERSION = "1"  # change it when results of the same submission may change


class _Run:
    """What one submission came to, while it is being found out."""

    def __init__(self, key: Key, limits: Limits) -> None:
        self.limits = limits
        self.end = time.monotonic() + limits.total_seconds
        self.found: dict[str, tuple[str, str]] = {}  # number -> status, reason
        self.titles = {task.number: task.title for task in key.tasks}
        self.open = {task.number for task in key.tasks}
        self.errors: dict[int, tuple[str, str]] = {}  # place of a cell -> number, what befell it
        self.passed_over: set[int] = set()
        self.notes: list[str] = []

    def seconds(self) -> float:
        """For the next cell."""
        left = self.end - time.monotonic()
        if left <= 1:
            raise TimeoutError
        return min(self.limits.cell_seconds, left)

    def conclude(self, number: str, status: str, reason: str = "") -> None:
        self.found[number] = status, reason
        self.open.discard(number)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def grade_notebook(steps: list[Step], key: Key, cage: Cage) -> tuple[dict, list[str]]:
    """Run a plan: status and reason of each exercise by number, and what else there is to say.

    A cell that raises or takes too long costs what depends on it. One that kills the kernel, or
    leaves it without memory, is passed over in a fresh kernel, and the rest is tried there.

    Raises:
        JailError: no kernel starts.
    """
    run = _Run(key, cage.limits)
    try:
        for _ in range(1 + RESTARTS):
            before = time.monotonic()
            with Kernel(cage) as kernel:
                run.end += time.monotonic() - before  # its start is not the student's time
                if _run_through(steps, kernel, run):
                    break
        else:
            run.note(f"the kernel was lost {1 + RESTARTS} times; the rest was not tried")
    except TimeoutError:
        run.note(f"all cells together took more than {run.limits.total_seconds:.0f} s")
    for task in key.tasks:
        if task.number in run.open:
            run.conclude(task.number, "stopped", "your notebook was stopped before it came here")
    return run.found, run.notes


def _run_through(steps: list[Step], kernel: Kernel, run: _Run) -> bool:
    """Run what is left to run; False if a fresh kernel is needed."""
    for place, step in enumerate(steps):
        if place in run.passed_over or (step.is_check and step.number not in run.open):
            continue
        if not run.open:
            break
        seconds = run.seconds()
        try:
            if step.is_check:
                _judge(step, kernel.judge(step.source, seconds), run)
            elif not _go_on_after(place, step, kernel.run(step.source, seconds), run):
                return False
            if not step.is_check and kernel.is_full():
                why = f"it keeps nearly all memory ({run.limits.memory / 2**30:.3g} GB)"
                return _lost(place, step, why, run)
        except TooLong:
            _stopped(place, step, f"it ran for more than {seconds:.0f} s and was interrupted", run)
            run.passed_over.add(place)  # what it defined stays here; a fresh kernel goes without
            if kernel.is_full():
                return False
        except Gone as gone:
            return _lost(place, step, str(gone), run)
    return True


def _lost(place: int, step: Step, why: str, run: _Run) -> bool:
    """Pass a cell over from now on; False, for a fresh kernel is needed."""
    run.passed_over.add(place)
    _stopped(place, step, why, run)
    return False


def _go_on_after(place: int, step: Step, said: tuple[str, str], run: _Run) -> bool:
    """Keep what one of the student's cells raised; False if it has left no memory to go on."""
    kind, text = said
    if kind == "MemoryError" or "not enough memory" in text or "Cannot allocate memory" in text:
        limit = f"{run.limits.memory / 2**30:.3g} GB"
        return _lost(place, step, f"it wanted more memory than there is ({limit})", run)
    text = re.sub(r" \((?:ipykernel_)?\d+\.py, (line \d+)\)", r" (\1)", text)
    if kind:
        run.errors[place] = step.number, f"{_name(step)} raised {kind}: {text}".rstrip(": ")
    return True


def _stopped(place: int, step: Step, why: str, run: _Run) -> None:
    """Keep why a cell, or the check of an answer, did not end by itself."""
    if step.is_check:
        run.conclude(step.number, "stopped", f"while your answer was checked: {why}")
        run.note(f"{step.number}, while it was checked: {why}")
    else:
        run.errors[place] = step.number, f"{_name(step)} was stopped: {why}"
        run.note(f"{step.number or 'after the last exercise'}, {_name(step)}: {why}")


def _name(step: Step) -> str:
    first = next((line.strip() for line in step.source.splitlines() if line.strip()), "")
    return f"the cell that begins “{first[:60]}”"


def _judge(step: Step, said: dict, run: _Run) -> None:
    """Draw the conclusion from what a check said."""
    if said.get("changed"):
        names = ", ".join(map(str, said["changed"]))
        run.note(f"replaced by the notebook, and put back for the checks: {names}")
    if int(said.get("printed") or 0) > MUCH:
        run.note(f"it prints more than {MUCH >> 20} million characters, which nobody reads")
    status, text = said["status"], str(said.get("text", ""))
    if status == "right":
        return run.conclude(step.number, "right")
    text = text.removeprefix(f"{step.number} {run.titles.get(step.number)}: ")
    if text == UNANSWERED:
        status = "unanswered"
    # What befell its cells explains more than what then was missing.
    before = [told for number, told in run.errors.values() if number == step.number]
    run.conclude(step.number, status, "\n".join([*before, text]))


# One student


def result_path(folder: Path, student: str, label: str) -> Path:
    """Where a student's result is kept."""
    return folder / "graded" / student / f"{label}.json"


def read_result(folder: Path, student: str, label: str) -> dict | None:
    """A result as it was written, or None."""
    try:
        return json.loads(result_path(folder, student, label).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def grade_student(folder: Path, student: str, key: Key, cage: Cage, again: bool = False) -> dict:
    """A student's result: the one that is there if it is current, else a new one, which is saved.

    Raises:
        JailError: no kernel starts.
        OSError: the result cannot be written.
    """
    began = time.perf_counter()
    limits = {k: v for k, v in asdict(cage.limits).items()}
    result: dict = {"student": student, "exercises_of": key.label, "file": None, "handed_in": None}
    notebook, reason = None, ""
    try:
        path, word = submissions.find(folder, student, key.name)
        data = path.read_bytes() if path.stat().st_size <= submissions.LARGEST else b"large"
        result["file"] = path.relative_to(folder).as_posix()
        when = submissions.handed_in(path, folder / "submitted" / student)
        result["handed_in"] = when.isoformat(timespec="seconds")
    except (Unreadable, OSError) as error:
        data, word, reason = b"", "", str(error)
    result["digest"] = digest_of(data, key.digest, json.dumps(limits), str(cage.is_jail), VERSION)
    old = read_result(folder, student, key.label)
    if old and old.get("digest") == result["digest"] and not again:
        return old | {"is_old": True}
    if not reason:
        try:
            notebook = submissions.read(path)
            steps, notes = submissions.plan(notebook, key)
        except Unreadable as error:
            reason = str(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"the file cannot be read as a notebook ({type(error).__name__}: {error})"
    if reason:
        found = {task.number: ("missing", reason) for task in key.tasks}
        result |= {"notes": [reason], "answers": {}}
    else:
        found, more = grade_notebook(steps, key, cage)
        result["notes"] = [*([word] if word else []), *notes, *more]
        result["answers"] = submissions.answers(notebook, key)
    result["exercises"] = [
        {"number": task.number, "status": found[task.number][0], "reason": found[task.number][1]}
        for task in key.tasks
    ]
    result["seconds"] = round(time.perf_counter() - began, 1)
    with written_whole(result_path(folder, student, key.label)) as temporary:
        text = json.dumps(result, ensure_ascii=False, indent=1)
        temporary.write_text(text, "utf-8", errors="replace")
    return result


# The class


@contextmanager
def cage_for(
    key: Key, limits: Limits, is_jail: bool = True, root: Path = ROOT, secrets: tuple = ()
) -> Iterator[Cage]:
    """The students' course in a folder of its own, and what is needed to start kernels on it.

    Raises:
        JailError: there can be no jail here.
    """
    if is_jail:
        probe()
        refuse_if_seen(root / "appendix", *secrets)
    with tempfile.TemporaryDirectory(prefix="course-") as name:
        course = Path(name)
        write_course(course, key.label, root)
        fonts = course / "matplotlib"
        fonts.mkdir()
        for file in Path(matplotlib.get_cachedir()).glob("fontlist-*.json"):
            shutil.copy(file, fonts)  # looking for fonts anew takes a second in every kernel
        modules = (f"shared.exercises.{key.label}", "shared.previous_chapters")
        yield Cage(course, limits, modules, is_jail)


def grade_class(
    folder: Path,
    key: Key,
    cage: Cage,
    say: Callable[[str], None] = print,
    again: bool = False,
    workers: int = WORKERS,
) -> tuple[list[dict], list[str]]:
    """Grade everybody, two at a time; the results, and what could not be graded and why."""
    names = submissions.students(folder)
    results, failed = [], []
    began = time.monotonic()
    pool = ThreadPoolExecutor(workers)
    waiting = {pool.submit(grade_student, folder, name, key, cage, again): name for name in names}
    try:
        for count, future in enumerate(as_completed(waiting), 1):
            name = waiting[future]
            try:
                result = future.result()
            except Exception as error:  # of the machine, not of the student: the others go on
                failed.append(f"{name}: {type(error).__name__}: {error}")
                say(f"[{count:3}/{len(names)}] {name}: NOT graded: {error}")
                continue
            results.append(result)
            right = sum(e["status"] == "right" for e in result["exercises"])
            left = (time.monotonic() - began) / count * (len(names) - count) / 60
            took = "as before" if result.get("is_old") else f"{result['seconds']:.0f} s"
            say(
                f"[{count:3}/{len(names)}] {name}: {right} of {len(key.tasks)} right, {took}"
                + (f"; about {left:.0f} min left" if left >= 1 else "")
            )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return sorted(results, key=lambda r: r["student"]), failed
