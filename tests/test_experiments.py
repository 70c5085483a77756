"""Long experiments: nothing that was run is lost, and nothing is compared that cannot be."""

from __future__ import annotations

import json

import pytest

import shared.stories
from shared.experiments import keep_runs, source_hash

CASES = [{"rate": (1, 2), "seed": seed} for seed in (0, 1)] + [{"rate": (3, 4), "seed": 0}]


def train(rate, seed):
    return {"loss": sum(rate) + seed}


def test_a_run_is_its_case_its_result_and_its_seconds(tmp_path):
    path = tmp_path / "results" / "rates.json"
    runs = keep_runs(
        path, "Which rate?", CASES, train, settings={"steps": (9,)}, asked="12 stories"
    )
    assert [(r["rate"], r["seed"], r["loss"]) for r in runs] == [
        ([1, 2], 0, 3),
        ([1, 2], 1, 4),
        ([3, 4], 0, 7),
    ]
    assert all(run["seconds"] >= 0 for run in runs)
    found = json.loads(path.read_text())
    assert found["runs"] == runs and found["asked"] == "12 stories" and "data" not in found
    assert found["settings"] == {"steps": [9]} and found["machine"] and found["date"]


def test_a_second_call_runs_only_what_is_missing(tmp_path):
    path, ran = tmp_path / "rates.json", []

    def watched(**case):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(case)
        return train(**case)

    with pytest.raises(KeyboardInterrupt):
        keep_runs(path, "?", CASES, watched, settings={})
    assert len(json.loads(path.read_text())["runs"]) == 2
    runs = keep_runs(path, "?", CASES, train, settings={})
    assert [run["loss"] for run in runs] == [3, 4, 7] and len(ran) == 2


def test_runs_whose_case_is_no_longer_asked_for_stay(tmp_path):
    path = tmp_path / "rates.json"
    keep_runs(path, "?", CASES, train, settings={})
    assert len(keep_runs(path, "?", CASES[:1], train, settings={})) == 3


@pytest.mark.parametrize("other", [{"settings": {"steps": 8}}, {"data": "one more"}])
def test_other_settings_or_data_are_refused_and_the_file_is_left(tmp_path, other):
    path = tmp_path / "rates.json"
    keep_runs(path, "?", CASES[:1], train, settings={"steps": 9}, data="words")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"other {next(iter(other))}.*move it away"):
        keep_runs(path, "?", CASES, train, **{"settings": {"steps": 9}, "data": "words"} | other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damaged", ["", '{"runs": [', "[]", '{"what": "a recipe"}', "\xff"])
def test_a_damaged_file_is_refused_and_left(tmp_path, damaged):
    path = tmp_path / "rates.json"
    path.write_bytes(damaged.encode("latin-1"))
    with pytest.raises(ValueError, match="rates.json is no results file.*Restore it"):
        keep_runs(path, "?", CASES, train, settings={})
    assert path.read_bytes() == damaged.encode("latin-1")


def test_no_run_begins_after_the_time(tmp_path, capsys):
    assert keep_runs(tmp_path / "a.json", "?", CASES, train, settings={}, minutes=-1) == []
    assert "goes on from here" in capsys.readouterr().out


def test_the_hash_knows_every_source(tmp_path):
    class Package:
        __file__ = str(tmp_path / "__init__.py")

    (tmp_path / "__init__.py").write_text("one = 1\n")
    (tmp_path / "words.tsv").write_text("kite\n")
    first = source_hash(Package)
    (tmp_path / "words.tsv").write_text("drum\n")
    assert source_hash(Package) != first and len(source_hash(shared.stories)) == 12
