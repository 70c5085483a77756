"""The ledger of runs: what is entered is there later, in any process, and nothing else is lost."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from shared import ledger as module
from shared.artifacts import ROOT
from shared.ledger import Ledger, Run, checked, number_columns, short


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture
def three():
    """A ledger of three runs."""
    ledger = Ledger("three")
    ledger.append({"learning_rate": 0.01, "kind": "muon"}, {"loss": 2.5}, 3.2)
    ledger.append({"learning_rate": 0.02, "kind": "muon"}, {"loss": 2.25, "right": 7}, 3.1)
    ledger.append({"learning_rate": 0.02, "kind": "adamw"}, {"loss": math.nan}, 3.1)
    return ledger


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from shared.ledger import Ledger\n" + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Entering


def test_a_run_is_one_line_of_json(own_artifacts):
    before = datetime.now(UTC).replace(microsecond=0)
    assert Ledger("my-runs_1").append({"top_k": 5}, {"words": 12}, seconds=0.123456) == 1
    path = own_artifacts / "ledgers" / "my-runs_1.jsonl"
    line = json.loads(path.read_text("utf-8"))
    date = datetime.fromisoformat(line.pop("date"))
    assert before <= date <= datetime.now(UTC)
    assert line == {
        "run": 1,
        "parameters": {"top_k": 5},
        "results": {"words": 12},
        "seconds": 0.1235,
    }
    assert path.read_bytes().count(b"\n") == 1 and path.read_bytes().endswith(b"}\n")


def test_runs_survive_the_process_and_a_new_one_goes_on_counting(three):
    said = in_a_new_process(
        "ledger = Ledger('three')\n"
        "print([run.results for run in ledger.runs()][:2])\n"
        "print(ledger.append({'learning_rate': 0.03, 'kind': 'é'}, {'loss': 2.0}, 1))"
    )
    assert said.splitlines() == ["[{'loss': 2.5}, {'loss': 2.25, 'right': 7}]", "4"]
    assert three.runs()[-1].parameters == {"learning_rate": 0.03, "kind": "é"}


def test_two_processes_may_write_at_once():
    code = (
        "from shared.ledger import Ledger\nimport sys\n"
        "for i in range(40): Ledger('busy').append({'who': sys.argv[1], 'i': i}, {}, 0)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, who], cwd=ROOT) for who in ("one", "two")
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    runs = Ledger("busy").runs()
    assert [run.run for run in runs] == list(range(1, 81)), "every number once, in order"
    for who in ("one", "two"):
        assert [r.parameters["i"] for r in runs if r.parameters["who"] == who] == list(range(40))


def test_numbers_of_other_libraries_are_kept_as_pythons():
    parameters, results = checked(
        {"a": np.int64(3), "b": np.bool_(True), "c": (1, 2), "d": None, "e": "text"},
        {"f": torch.tensor(2.5), "g": np.float32(0.5), "h": True, "i": torch.tensor([[7]])},
    )
    assert json.dumps([parameters, results]) == json.dumps(
        [
            {"a": 3, "b": True, "c": "(1, 2)", "d": None, "e": "text"},
            {"f": 2.5, "g": 0.5, "h": True, "i": 7},
        ]
    )


@pytest.mark.parametrize("bad", [None, 2.5, [("loss", 2.5)], "loss"])
def test_results_that_are_no_dict_are_refused(bad):
    with pytest.raises(TypeError, match="must be a dict of numbers"):
        Ledger("x").append({}, bad, 1.0)
    assert not Ledger("x").path.exists()


@pytest.mark.parametrize("bad", ["2.5", None, [1.0], torch.zeros(2), 1j])
def test_a_result_that_is_no_number_is_refused_by_name(bad):
    with pytest.raises(TypeError, match="result 'loss' must be one number"):
        checked({}, {"loss": bad})


@pytest.mark.parametrize(
    "parameters, results, name",
    [({"a": 1}, {"a": 2}, "a"), ({"seconds": 1}, {}, "seconds"), ({}, {"run": 1}, "run")],
)
def test_a_name_is_used_once(parameters, results, name):
    with pytest.raises(ValueError, match=f"the name '{name}' is used twice"):
        checked(parameters, results)


@pytest.mark.parametrize("bad", ["", "a/b", "../a", "a.b", "a b", "é", None, 3, "a\n"])
def test_a_name_that_is_no_plain_file_name_is_refused(bad):
    with pytest.raises(ValueError, match="letters, digits, _ and -"):
        Ledger(bad)


# A damaged file


@pytest.mark.parametrize(
    "damage",
    [
        b'{"run": 4, "parameters": {"learning_rate": 0.0',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"7",
        b'{"run": 4, "parameters": {}, "results": {"a": "b"}, "seconds": 1, "date": "2026-01-01"}',
        b'{"run": 4, "parameters": {}, "results": {}, "seconds": 1, "date": "yesterday"}',
        b'{"run": "4", "parameters": {}, "results": {}, "seconds": 1, "date": "2026-01-01"}',
        b'{"run": 4, "parameters": {}, "results": {}, "seconds": 1}',
    ],
)
def test_a_damaged_last_line_is_left_out_with_a_note_and_kept(three, damage, capsys):
    whole = three.path.read_bytes()
    three.path.write_bytes(whole + damage)
    assert list(three.table().index) == [1, 2, 3]
    assert "line 4 of three.jsonl cannot be read" in three.note
    assert three.note in capsys.readouterr().out
    assert three.append({}, {"loss": 1.0}, 1) == 4
    assert [run.run for run in three.runs()] == [1, 2, 3, 4]
    assert three.forget([2]) == 1
    assert [run.run for run in three.runs()] == [1, 3, 4]
    assert damage in three.path.read_bytes().split(b"\n"), "nothing is thrown away"


def test_a_whole_last_line_without_its_end_counts(three):
    three.path.write_bytes(three.path.read_bytes()[:-1])
    assert three.append({}, {"loss": 1.0}, 1) == 4
    assert [run.run for run in three.runs()] == [1, 2, 3, 4] and not three.note


def test_a_whole_ledger_has_no_note(three, capsys):
    three.table()
    assert three.note == "" and capsys.readouterr().out == ""


# An empty one


def test_an_empty_ledger_makes_no_file_and_shows_nothing(own_artifacts):
    ledger = Ledger("none")
    assert ledger.runs() == [] and ledger.note == "" and repr(ledger) == "Ledger('none'), 0 runs"
    assert list(ledger.table().columns) == ["seconds", "date"] and len(ledger.table()) == 0
    assert ledger.plot("a", "b", Figure().subplots()).get_title() == "No runs yet"
    with pytest.raises(ValueError, match="at least two runs"):
        ledger.compare([])
    with pytest.raises(ValueError, match="nothing to export"):
        ledger.export()
    assert ledger.forget() == 0
    assert not ledger.path.exists()


# Looking


def test_the_table_holds_what_was_entered(three):
    frame = three.table()
    assert list(frame.columns) == ["learning_rate", "kind", "loss", "right", "seconds", "date"]
    assert frame.index.name == "run" and list(frame.index) == [1, 2, 3]
    assert list(frame["learning_rate"]) == [0.01, 0.02, 0.02]
    assert frame["right"].isna().tolist() == [True, False, True] and frame["right"][2] == 7
    assert frame["loss"].isna().tolist() == [False, False, True]
    assert frame["date"].dt.tz is not None and frame["date"].is_monotonic_increasing


def test_which_columns_hold_numbers(three):
    three.append({"on": True}, {}, 1)
    frame = three.table().reset_index()
    assert number_columns(frame) == ["run", "learning_rate", "loss", "right", "seconds"]


def dots(ax) -> list[tuple]:
    return [tuple(x) for x in ax.lines[0].get_xydata()]


def test_the_plot_has_a_numbered_dot_for_each_run_that_has_both(three):
    ax = three.plot("learning_rate", "loss", Figure().subplots())
    assert dots(ax) == [(0.01, 2.5), (0.02, 2.25)]
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning_rate", "loss")
    assert ax.get_title() == "2 runs, 1 without both left out"


@pytest.mark.parametrize("x", ["run", "date", "kind", "loss", "seconds"])
def test_any_column_may_lie_across(three, x):
    figure = Figure()
    ax = three.plot(x, "loss", figure.subplots())
    figure.canvas.draw()
    assert len(ax.lines[0].get_ydata()) == 2
    if x == "kind":
        assert [label.get_text() for label in ax.get_xticklabels()] == ["muon"]


def test_an_infinite_result_is_left_out(three):
    three.append({"learning_rate": 9.0, "kind": "muon"}, {"loss": math.inf}, 1)
    assert dots(three.plot("run", "loss", Figure().subplots())) == [(1, 2.5), (2, 2.25)]


@pytest.mark.parametrize(
    "x, y, says",
    [
        ("nothing", "loss", "no column 'nothing'; there are run, learning_rate"),
        ("run", "nothing", "no column 'nothing'"),
        ("run", "kind", "'kind' holds no numbers; choose of run, learning_rate, loss"),
    ],
)
def test_a_plot_of_what_is_not_there_is_refused(three, x, y, says):
    with pytest.raises(ValueError, match=says):
        three.plot(x, y, Figure().subplots())


def test_a_comparison_shows_what_differs_and_nothing_else(three):
    frame = three.compare([2, 3])
    assert list(frame.columns) == [2, 3] and list(frame.index) == ["kind", "loss", "right"]
    assert frame.loc["kind"].tolist() == ["muon", "adamw"]
    assert frame.loc["right"].tolist()[0] == 7 and frame.loc["right"].tolist()[1] is None
    assert list(three.compare([1, 2]).index) == ["learning_rate", "loss", "right", "seconds"]
    assert three.compare([3, 1, 3]).columns.tolist() == [3, 1]


def test_runs_that_are_alike_have_no_rows():
    ledger = Ledger("twins")
    for _ in range(2):
        ledger.append({"a": 1}, {"loss": math.nan}, 2)
    assert ledger.compare([1, 2]).empty


@pytest.mark.parametrize("runs, says", [([1], "at least two"), ([1, 9], "no run 9.*holds")])
def test_a_comparison_that_makes_no_sense_is_refused(three, runs, says):
    with pytest.raises(ValueError, match=says):
        three.compare(runs)


def test_values_are_shown_in_short():
    told = [short(x) for x in (0.123456, 3.0, 12_345.678, 7, True, None, pd.NaT, math.nan)]
    assert told == ["0.1235", "3", "1.235e+04", "7", "True", "", "", "nan"]
    assert short(-math.inf) == "-inf" and short("x" * 50, 10) == "x" * 9 + "…"


# CSV


def test_the_csv_holds_every_run_exactly(three):
    path = three.export()
    assert path == three.path.with_suffix(".csv").resolve()
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "run", "learning_rate", "kind", "loss", "right", "seconds", "date",
    ]  # fmt: skip
    assert [row["right"] for row in rows] == ["", "7", ""], "an integer stays one"
    assert [row["loss"] for row in rows] == ["2.5", "2.25", "nan"]
    assert [row["date"] for row in rows] == [run.date for run in three.runs()]
    assert list(pd.read_csv(path)["learning_rate"]) == [0.01, 0.02, 0.02]


def test_its_own_csv_is_replaced(three, tmp_path):
    path = three.export(tmp_path / "new folder" / "mine.csv")
    three.append({}, {"loss": 1.0}, 1)
    assert three.export(path) == path and len(pd.read_csv(path)) == 4
    three.export(path)
    assert three.path.read_text().count('"export"') == 2, "written down once for each content"
    assert len(three.runs()) == 4 and not three.note


def test_a_csv_that_is_somebody_elses_is_not_replaced(three, tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text("name,mark\nAda,1\n")
    with pytest.raises(FileExistsError, match="marks.csv exists and was not written by"):
        three.export(path)
    assert path.read_text() == "name,mark\nAda,1\n"
    three.export(path, overwrite=True)
    assert len(pd.read_csv(path)) == 3
    path.write_text(path.read_text() + "a note of mine,,,,,,\n")
    with pytest.raises(FileExistsError, match="changed since"):
        three.export(path)
    assert "a note of mine" in path.read_text()


def test_another_ledgers_csv_is_not_its_own(three, tmp_path):
    other = Ledger("other")
    other.append({}, {"loss": 1.0}, 1)
    path = other.export(tmp_path / "runs.csv")
    with pytest.raises(FileExistsError, match="ledger 'three'"):
        three.export(path)
    with pytest.raises(FileExistsError):
        three.export(tmp_path)


# Forgetting


def test_forgotten_runs_are_gone_and_their_numbers_are_not_given_again(three):
    assert three.forget([3, 1]) == 2
    assert [run.run for run in three.runs()] == [2]
    assert three.append({}, {}, 1) == 4
    assert three.forget() == 2 and three.runs() == []
    assert three.append({}, {}, 1) == 5
    assert b"muon" not in three.path.read_bytes() and not three.note


def test_forgetting_a_run_that_is_not_there_removes_nothing(three):
    before = three.path.read_bytes()
    with pytest.raises(ValueError, match="no run 7"):
        three.forget([1, 7])
    assert three.path.read_bytes() == before


def test_an_export_is_remembered_when_runs_are_forgotten(three):
    path = three.export()
    three.forget([1])
    assert three.export(path) == path and len(pd.read_csv(path)) == 2


def test_a_disk_that_is_full_harms_no_run(three, monkeypatch):
    before = three.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_line", full)
    for action in (lambda: three.append({}, {}, 1), lambda: three.forget([1])):
        with pytest.raises(OSError, match="(?i)no space left"):
            action()
    assert three.path.read_bytes() == before


def test_a_run_cannot_be_changed(three):
    with pytest.raises(AttributeError):
        three.runs()[0].seconds = 0
    assert isinstance(three.runs()[0], Run)
