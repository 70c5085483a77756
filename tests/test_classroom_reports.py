"""Marks, feedback, the picture of the class, and pairs that are nearly the same."""

from __future__ import annotations

import csv
import os
import re

import matplotlib.image
import pytest

from shared.classroom import report, similarity, submissions
from tests.small_course import make_course


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return submissions.read_key("ch02", make_course(tmp_path_factory.mktemp("course")))


def result(student, statuses="right right right", **more):
    numbers = ("2.1", "2.2", "2.3")
    exercises = [
        {"number": n, "status": s, "reason": "" if s == "right" else f"why {n}"}
        for n, s in zip(numbers, statuses.split(), strict=True)
    ]
    made = {"student": student, "handed_in": "2026-03-02T18:30:00+00:00", "notes": []}
    return made | {"exercises": exercises, "answers": {}} | more


def policy_of(folder, key, text):
    (folder / "classroom.toml").write_text(text)
    return report.read_policy(folder, key)


# --- marks


def test_marks_follow_the_points_and_the_deadline_of_the_class(tmp_path, key):
    own = report.read_policy(tmp_path, key)
    assert report.marks(result("a", "right wrong right"), own).total == 6
    policy = policy_of(
        tmp_path,
        key,
        '[ch02]\ndeadline = 2026-03-01T18:00:00+00:00\noff_per_day = 10\npoints = {"2.1" = 10}\n',
    )
    worth = report.marks(result("a", "right wrong right"), policy)
    assert worth == report.Marks({"2.1": 10, "2.2": 0, "2.3": 3}, 2, 10.4, 16)
    in_time = result("b", handed_in="2026-03-01T18:00:00+00:00")
    assert report.marks(in_time, policy).total == 16
    assert report.marks(result("c", handed_in=None), policy).late_days == 0
    long_after = result("d", handed_in="2026-05-01T18:00:00+00:00")
    assert report.marks(long_after, policy).total == 0


def test_what_is_wrong_in_the_rules_is_named(tmp_path, key):
    for text, said in (
        ('[ch02]\npoints = {"2.9" = 1}', r"'points\.2\.9' is not known"),
        ("[ch02]\ndedline = 1", "'dedline' is not known"),
        ('[ch02]\ndeadline = "soon"', "write 2026-03-02T18:00:00"),
        ("[ch02", "classroom.toml"),
    ):
        with pytest.raises(report.PolicyError, match=said):
            policy_of(tmp_path, key, text)
    assert policy_of(tmp_path, key, "[ch05]\noff_per_day = 3").off_per_day == 0


def test_when_it_was_handed_in_is_read_from_nbgraders_stamp(tmp_path):
    home = tmp_path / "anna"
    path = home / "ch02" / "a.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text("")
    os.utime(path, (0, 0))
    assert submissions.handed_in(path, home).timestamp() == 0
    (home / "ch02/timestamp.txt").write_text("2026-03-02 18:00:00.000000 UTC")
    assert submissions.handed_in(path, home).isoformat().startswith("2026-03-0")
    assert submissions.handed_in(path, home).timestamp() == 1772474400
    (home / "ch02/timestamp.txt").write_text("yesterday")
    assert submissions.handed_in(path, home).timestamp() == 0


# --- what is written


def test_reports_are_whole_and_nothing_in_them_runs(tmp_path, key):
    evil = "<script>alert(1)</script>"
    results = [
        result("=HYPERLINK(1)", "wrong stopped right", answers={"2.1": evil}, notes=[evil]),
        result("ben", "right unanswered raised"),
        result("carla", "missing missing missing", notes=["nothing was handed in"]),
    ]
    results[0]["exercises"][0]["reason"] = f"{evil} expected 3"
    report.write_reports(tmp_path, results, key)
    rows = list(csv.reader(open(tmp_path / "marks_ch02.csv", encoding="utf-8")))
    assert rows[0][:6] == ["student", "2.1", "2.2", "2.3", "total", "of"]
    assert [row[0] for row in rows[1:]] == ["'=HYPERLINK(1)", "ben", "carla"]
    assert [row[4] for row in rows[1:]] == ["3", "3", "0"]
    assert rows[3][-1] == "nothing was handed in" and rows[2][-1] == ""
    page = (tmp_path / "feedback/=HYPERLINK(1)/ch02.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "expected 3" in page
    assert "3 of 9 points" in page and "was stopped · 0 of 3" in page
    assert not re.search(r"https?://|src=", page), "it needs nothing from elsewhere"
    picture = matplotlib.image.imread(tmp_path / "class_ch02.png")
    assert picture.shape[1] > 900 and picture[..., :3].std() > 0.05


def test_a_class_of_nobody_can_be_drawn(tmp_path, key):
    report.draw_class(tmp_path / "x.png", [], key, report.read_policy(tmp_path, key))
    assert (tmp_path / "x.png").stat().st_size > 1000


# --- nearly the same

FIRST = """def attend(queries, keys, values):
    scores = queries @ keys.transpose(1, 2)
    scores = scores / queries.shape[-1] ** 0.5
    weights = torch.softmax(scores, dim=-1)
    mixed = []
    for row in range(len(weights)):
        mixed.append(weights[row] @ values[row])
    return torch.stack(mixed), weights
"""
RENAMED = '''def attend(q, k, v):
    """My own work."""
    s = q @ k.transpose(1,
                        2)  # the scores
    s = s / q.shape[-1] ** 0.25

    w = torch.softmax(s, dim=-1)
    out = []
    for i in range(len(w)):
        # one after another
        out.append(w[i] @ v[i])
    return torch.stack(out), w
'''
OTHER = """def attend(queries, keys, values):
    d = queries.shape[2]
    def weigh(i):
        return (queries[i] @ keys[i].T * d**-0.5).softmax(1)
    w = torch.stack([weigh(i) for i in range(queries.shape[0])])
    mixture = torch.einsum("bij,bjd->bid", w, values)
    assert mixture.shape[0] == queries.shape[0], "batch"
    return mixture, w
"""


def test_names_comments_and_layout_hide_nothing():
    assert similarity.tokens(FIRST) == similarity.tokens(RENAMED)
    assert similarity.tokens("%matplotlib inline\nx = 1") == similarity.tokens("y = 'a'")
    assert similarity.tokens("x = (1,\n") == ["name", "=", "(", "value", ","]


def test_copies_are_listed_and_independent_work_is_not():
    answers = {s: {"3.1": FIRST} for s in ("anna", "ben")}
    answers |= {"carla": {"3.1": OTHER}, "dora": {"3.1": RENAMED}}
    found = similarity.similar(answers, {})
    assert {pair.students for pair in found} == {
        ("anna", "ben"),
        ("anna", "dora"),
        ("ben", "dora"),
    }
    assert found[0].alike == pytest.approx(1) and found[0].exercises == ("3.1",)


def test_what_was_given_and_what_is_short_say_nothing():
    answers = {s: {"3.1": FIRST} for s in ("anna", "ben")}
    assert similarity.similar(answers, {"3.1": RENAMED}) == []
    short = {s: {"3.1": "def f(x):\n    return x + 1"} for s in ("anna", "ben")}
    assert similarity.similar(short, {}) == []
    assert similarity.similar({"anna": {}, "ben": {"3.1": FIRST}}, {}) == []


def test_what_everybody_writes_counts_little():
    shared, twins = FIRST, {"anna": OTHER, "ben": OTHER}
    answers = {f"s{i:02}": {"3.1": shared + f"x = [{', '.join('abc'[: i % 3 + 1])}] * {i}\n" * i}
               for i in range(3, 9)}  # fmt: skip
    answers |= {name: {"3.1": shared + text} for name, text in twins.items()}
    found = similarity.similar(answers, {})
    assert found[0].students == ("anna", "ben")
    assert all("anna" not in p.students and "ben" not in p.students for p in found[1:])
