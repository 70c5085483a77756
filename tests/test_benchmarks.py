"""The table of benchmarks: what it shows, and that a failing benchmark is a row, not a crash."""

import types

import pytest

from tests.benchmarks import __main__ as bench

ROWS = [
    {"figure": "speed | size", "bar": "≤ 3×", "measured": "2.1×", "met": True, "note": "a\nb"},
    {"figure": "gpu", "measured": "not here"},
    {"figure": "loss", "bar": "≤ 1.05", "measured": "1.2", "met": False},
]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Benchmarks of our own, results in a temporary folder."""
    made = {"good": lambda: ROWS[:2], "bad": lambda: 1 / 0}
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "names", lambda: sorted(made))
    monkeypatch.setattr(
        bench.importlib,
        "import_module",
        lambda name: types.SimpleNamespace(rows=made[name.partition("bench_")[2]]),
    )
    return tmp_path / "results.md", made


def test_the_table_is_aligned_markdown():
    lines = bench.table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split(" | ")[0] == "| speed \\| size" and lines[2].endswith("| yes | a b  |")
    assert "| –   |" in lines[3] and "| NO  |" in lines[4]


def test_a_failing_benchmark_becomes_a_row(measured, capsys):
    results, _ = measured
    assert bench.main([]) == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out
    written = results.read_text("utf-8")
    assert written.startswith("# Measured by `make bench` on 20") and "torch" in written
    assert "| NO  | ZeroDivisionError" in written and "speed" in written


def test_some_benchmarks_alone_write_nothing(measured, capsys):
    results, _ = measured
    assert bench.main(["good"]) == 0
    assert not results.exists() and "2.1×" in capsys.readouterr().out
    assert bench.main(["nothing"]) == 2
    assert "there are ['bad', 'good']" in capsys.readouterr().err


def test_an_unknown_column_is_refused(measured):
    measured[1]["good"] = lambda: [{"figure": "x", "speed": 1}]
    with pytest.raises(ValueError, match="bench_good: unknown column .'speed'."):
        bench.main(["good"])


def test_every_benchmark_there_is_has_rows():
    for name in bench.names():
        source = (bench.HERE / f"bench_{name}.py").read_text("utf-8")
        assert "def rows(" in source, f"bench_{name}.py: define rows()"


def test_the_row_of_gpt2_s_format_is_measured():
    from tests.benchmarks.bench_pretraining import gpt2_row

    assert gpt2_row()["met"]
