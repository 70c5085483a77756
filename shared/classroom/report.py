"""Marks as CSV, feedback as HTML, a picture of the class, and pairs that are nearly the same."""

from __future__ import annotations

import csv
import html
import tomllib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from matplotlib.figure import Figure

from shared.artifacts import written_whole
from shared.classroom.grade import UNANSWERED
from shared.classroom.release import title_of
from shared.classroom.similarity import Pair, similar
from shared.classroom.submissions import Key, plan
from shared.figures import BLUE, GREEN, GREY, ORANGE

WORDS = {
    "right": "right",
    "wrong": "not right yet",
    "raised": "raises an error",
    "stopped": "was stopped",
    "unanswered": "not answered",
    "missing": "nothing to grade",
}


class PolicyError(ValueError):
    """classroom.toml cannot be used; says which entry."""


@dataclass(frozen=True)
class Policy:
    """A class's own rules for one chapter, from `classroom.toml`."""

    points: dict[str, float] = field(default_factory=dict)
    deadline: datetime | None = None
    off_per_day: float = 0.0  # percent of the marks for each day begun after the deadline


def read_policy(folder: Path, key: Key) -> Policy:
    """The table `[chNN]` of a class's `classroom.toml`; the course's own points where it is silent.

    Raises:
        PolicyError: an exercise or an entry that does not exist, or a value that cannot be used.
    """
    own = {task.number: task.points for task in key.tasks}
    path = folder / "classroom.toml"
    if not path.is_file():
        return Policy(own)
    table = key.label
    try:
        chosen = tomllib.loads(path.read_text("utf-8")).get(table, {})
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{path}: {error}") from None
    unknown = [name for name in chosen if name not in ("points", "deadline", "off_per_day")]
    unknown += [f"points.{number}" for number in chosen.get("points", {}) if number not in own]
    if unknown:
        raise PolicyError(
            f"{path}, [{table}]: {unknown[0]!r} is not known; there are deadline, off_per_day, and "
            f"points of {', '.join(own)}"
        )
    deadline = chosen.get("deadline")
    if deadline is not None and not isinstance(deadline, datetime):
        raise PolicyError(f"{path}, [{table}]: deadline = {deadline}; write 2026-03-02T18:00:00")
    return Policy(
        own | {number: float(points) for number, points in chosen.get("points", {}).items()},
        deadline.astimezone() if deadline else None,
        float(chosen.get("off_per_day", 0)),
    )


@dataclass(frozen=True)
class Marks:
    """What a result is worth under a policy."""

    each: dict[str, float]
    late_days: int
    total: float
    of: float


def marks(result: dict, policy: Policy) -> Marks:
    """The marks of one student; days late are counted from the deadline on, each one begun."""
    each = {
        e["number"]: policy.points[e["number"]] * (e["status"] == "right")
        for e in result["exercises"]
    }
    late = 0
    if policy.deadline and result["handed_in"]:
        seconds = (datetime.fromisoformat(result["handed_in"]) - policy.deadline).total_seconds()
        late = max(0, -int(-seconds // 86400))
    kept = max(0.0, 1 - late * policy.off_per_day / 100)
    return Marks(each, late, round(sum(each.values()) * kept, 2), sum(policy.points.values()))


def _safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def write_marks(path: Path, results: list[dict], key: Key, policy: Policy) -> None:
    """One line for each student."""
    numbers = [task.number for task in key.tasks]
    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(["student", *numbers, "total", "of", "days late", "handed in", "notes"])
        for result in results:
            worth = marks(result, policy)
            row = [_number(worth.each[n]) for n in numbers]
            row += [_number(worth.total), _number(worth.of), worth.late_days]
            row += [result["handed_in"] or "", _safe("; ".join(result["notes"]))]
            table.writerow([_safe(result["student"]), *row])


def _number(value: float) -> str:
    return f"{value:g}"


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto }}
section {{ border-left: 5px solid {grey}; padding: .1rem 1rem; margin: 1.2rem 0 }}
section.right {{ border-color: {green} }} section.wrong, section.raised {{ border-color: {orange} }}
section.stopped {{ border-color: {orange} }}
h2 {{ font-size: 1.05rem; margin: .2rem 0 }} h2 span {{ float: right; font-weight: normal }}
p {{ white-space: pre-wrap; margin: .3rem 0 }}
pre {{ background: #f4f4f4; padding: .6rem; overflow-x: auto; font-size: .85rem }}
</style>
<h1>{title}</h1>
<p>{student}: <b>{total} of {of} points</b>{late}</p>
{notes}
{exercises}
</html>
"""


def feedback(result: dict, key: Key, policy: Policy) -> str:
    """A page for one student: each exercise, its points, the reason, and the answer given.

    Everything a student wrote is shown as text; none of it becomes part of the page.
    """
    worth = marks(result, policy)
    parts = []
    for entry, task in zip(result["exercises"], key.tasks, strict=True):
        number = task.number
        points = f"{_number(worth.each[number])} of {_number(policy.points[number])}"
        state = f"{WORDS[entry['status']]} · {points}"
        title = html.escape(f"{number} · {task.title}")
        parts.append(f'<section class="{html.escape(entry["status"])}">')
        parts.append(f"<h2>{title}<span>{state}</span></h2>")
        if entry["reason"] not in ("", UNANSWERED) and entry["status"] != "missing":
            parts.append(f"<p>{html.escape(entry['reason'])}</p>")
        if answer := result["answers"].get(number):
            shown = html.escape(answer[:20_000])
            parts.append(f"<details><summary>your answer</summary><pre>{shown}</pre></details>")
        parts.append("</section>")
    late = f", {worth.late_days} days late" if worth.late_days else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in result["notes"])
    return PAGE.format(
        title=f"{title_of(key.label)}: feedback",
        student=html.escape(result["student"]),
        total=_number(worth.total),
        of=_number(worth.of),
        late=late,
        notes=f"<ul>{notes}</ul>" if notes else "",
        exercises="\n".join(parts),
        grey=GREY,
        green=GREEN,
        orange=ORANGE,
    )


def draw_class(path: Path, results: list[dict], key: Key, policy: Policy) -> None:
    """Two pictures in one: how the marks are spread, and what became of each exercise."""
    fig = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = fig.subplots(1, 2)
    of = sum(policy.points.values()) or 1
    left.hist(
        [100 * marks(r, policy).total / of for r in results],
        bins=[*range(0, 101, 10)],
        color=BLUE,
        edgecolor="white",
    )
    left.set(xlabel="marks in % of all points", ylabel="students", xlim=(0, 100))
    left.set_title(f"{title_of(key.label)}: {len(results)} students", loc="left")
    left.yaxis.get_major_locator().set_params(integer=True)
    numbers = [task.number for task in key.tasks]
    start = [0] * len(numbers)
    groups = (
        ("right", GREEN, {"right"}),
        ("tried, not right", ORANGE, {"wrong", "raised", "stopped"}),
        ("not answered", "#cbd5e0", {"unanswered", "missing"}),
    )
    for label, colour, kinds in groups:
        counts = [
            sum(e["status"] in kinds for r in results for e in r["exercises"] if e["number"] == n)
            for n in numbers
        ]
        right.barh(numbers, counts, left=start, color=colour, label=label)
        start = [a + b for a, b in zip(start, counts, strict=True)]
    right.invert_yaxis()
    right.set(xlabel="students", xlim=(0, len(results) or 1))
    right.set_title("each exercise", loc="left")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False)
    with written_whole(path) as temporary:
        fig.savefig(temporary, dpi=110)


def alike(results: list[dict], key: Key) -> list[Pair]:
    """Pairs whose answers are nearly the same."""
    given: dict[str, str] = {}
    for step in plan(key.blank, key)[0]:
        if not step.is_check:
            given[step.number] = given.get(step.number, "") + "\n" + step.source
    return similar({r["student"]: r["answers"] for r in results if r["answers"]}, given)


def write_reports(folder: Path, results: list[dict], key: Key) -> list[Pair]:
    """Write marks, feedback, picture and pairs of a chapter into the class's folder.

    Raises:
        PolicyError: see `read_policy`.
    """
    policy = read_policy(folder, key)
    name = key.label
    write_marks(folder / f"marks_{name}.csv", results, key, policy)
    for result in results:
        page = folder / "feedback" / result["student"] / f"{name}.html"
        with written_whole(page) as temporary:
            text = feedback(result, key, policy)
            temporary.write_text(text, "utf-8", errors="replace")
    draw_class(folder / f"class_{name}.png", results, key, policy)
    pairs = alike(results, key)
    path = folder / f"alike_{name}.csv"
    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(["one", "other", "alike in %", "exercises nearly the same"])
        for pair in pairs:
            names = [_safe(student) for student in pair.students]
            table.writerow([*names, round(100 * pair.alike), " ".join(pair.exercises)])
    return pairs
