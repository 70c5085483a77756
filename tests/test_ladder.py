"""Appendix D's ladder of speed: one change a row, equal losses, and rows for what is not here."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.dummy
import sys
from dataclasses import fields

import pytest
import torch

import shared.previous_chapters as chapters
from shared.artifacts import ROOT

FOLDER = ROOT / "appendix/d_training_tricks"
sys.path.insert(0, str(FOLDER))

import ladder  # noqa: E402
import ladder_row  # noqa: E402

MODEL = ladder_row.SCALES["tiny"][0]
MEASURED = ("tokens_per_second", "ratio", "ratio_low", "ratio_high", "times_naive", "memory_mb")


@pytest.fixture
def as_before(monkeypatch):
    """What a row's process sets for itself, set back for the other tests."""
    monkeypatch.setattr(chapters, "convolution_pays", chapters.convolution_pays)
    monkeypatch.setattr(ladder_row, "keep_freed_memory", lambda: True)  # it has no way back
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.set_flush_denormal(False)


@pytest.fixture
def in_threads(monkeypatch, as_before):
    """Rows in threads of this process: quick, and all alike but for memory and speed."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: multiprocessing.dummy)


@pytest.fixture(scope="module")
def texts():
    return ladder_row.text_rows("tiny")


def check_table(table: dict) -> None:
    """The form that the notebook reads, and what must hold on any machine."""
    assert {"what", "device", "scale", "model", "settings", "machine", "seconds", "rows"} <= set(
        table
    )
    assert table["machine"]["cores"] >= 1 and table["machine"]["torch"]
    rows = {row["name"]: row for row in table["rows"]}
    assert len(rows) == len(table["rows"]) == 13 and table["rows"][0]["name"] == "naive"
    for row in table["rows"][1:]:
        assert set(row) == {f.name for f in fields(ladder.Row)}
        base = rows[row["stands_on"]]
        assert base["kept"], f"{row['name']} stands on {base['name']}, which was not kept"
        if row["tokens_per_second"] is None:
            assert row["verdict"] and not row["kept"]
            continue
        (name,) = row["change"]
        differ = {k for k in row["setup"] if row["setup"][k] != base["setup"][k]}
        assert differ == {name}, f"{row['name']} differs from {base['name']} in {differ}"
        assert all(row[key] > 0 for key in MEASURED)
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["times_naive"] == pytest.approx(base["times_naive"] * row["ratio"])
        assert row["agrees"] and abs(row["loss"] - base["loss"]) <= row["tolerance"] < 0.05
        assert row["tolerance_why"]


def test_a_whole_ladder(in_threads, monkeypatch, tmp_path, texts):
    rungs = ladder.changes("cpu", "tiny", threads=2)
    rungs = [
        ladder.replace(rung, missing="see the next test") if rung.field == "compiled" else rung
        for rung in rungs
    ]
    monkeypatch.setattr(ladder, "changes", lambda *given: rungs)
    monkeypatch.setattr(ladder, "text_rows", lambda scale: texts)
    path = tmp_path / "ladder.json"
    given = ["--scale", "tiny", "--threads", "2", "--quick", "--out", str(path)]
    assert ladder.main(given) == 0
    table = json.loads(path.read_text())
    check_table(table)
    assert [row["verdict"] for row in table["rows"] if row["name"] == "TF32"] == ["CUDA only"]


def test_the_saved_table_has_the_form():
    check_table(json.loads((FOLDER / "results/ladder.json").read_text()))


def test_each_device_has_its_rungs_in_order_and_names_the_others():
    cuda, cpu = ladder.changes("cuda", "gpt2", threads=4), ladder.changes("cpu", "laptop", 1)
    here = [rung.field for rung in cuda if not rung.missing]
    wanted = ["matmul", "bf16", "sdpa", "fused", "compiled", "vocabulary_multiple", "batch_rows"]
    assert here == wanted
    missing = {rung.field: rung.missing for rung in cpu if rung.missing}
    assert missing == {"threads": "one thread is all that there is", "matmul": "CUDA only"}
    assert [rung.field for rung in cuda] == [rung.field for rung in cpu]


def test_without_a_compiler_there_is_a_row_and_no_crash(monkeypatch, tmp_path, texts, as_before):
    naive = ladder.Row("naive", {}, kept=True, times_naive=1.0)
    with monkeypatch.context() as here:  # the row before in a thread, the one without in a process
        here.setattr(multiprocessing, "get_context", lambda method: multiprocessing.dummy)
        base = ladder.Runner(naive, ladder.Setup("cpu", "tiny", 2), texts)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    row, left = ladder.climb(base, ladder.Change("torch.compile", "compiled", True), 2)
    assert "C++ compiler" in row.verdict and row.tokens_per_second is None
    assert left is base and not row.kept
    assert base.block() > 0, "the row before must go on"
    base.stop()
    assert naive.loss > 0 and naive.memory_mb > 0


def test_what_is_slower_or_another_model_is_not_kept():
    base = ladder.Row("base", {}, loss=2.0, times_naive=3.0)
    change = ladder.Change("a change", "sdpa", True, tolerance=0.01)

    def judged(ratios, loss):
        row = ladder.Row("row", {}, loss=loss, setup={"bf16": False})
        ladder.judge(row, base, change, ratios)
        return row.verdict, row.kept, row.times_naive

    assert judged([1.5, 1.2, 1.4], 2.009) == ("faster", True, pytest.approx(4.2))
    assert judged([0.5, 0.9, 0.7], 2.0) == ("slower", False, pytest.approx(2.1))
    assert judged([0.9, 1.1, 1.0], 2.0)[:2] == ("no clear difference", True)
    assert judged([1.5, 1.2, 1.4], 2.02)[1] is False


# What the rows compute


def row_of(texts, **changes):
    return ladder_row.Training(ladder_row.Setup("cpu", "tiny", 2, **changes), texts)


def test_the_two_attentions_agree(as_before):
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(0))
    plain = chapters.MultiHeadAttention(24, 3)
    readable = ladder_row.ReadableAttention(24, 3)
    readable.load_state_dict(plain.state_dict())
    assert torch.allclose(plain(x), readable(x), atol=1e-6)


def test_padding_the_vocabulary_changes_no_logit(as_before):
    setup = ladder_row.Setup("cpu", "tiny", 2)
    ids = torch.arange(30).view(2, 15)
    plain = ladder_row.build_model(setup)(ids)
    more = ladder_row.build_model(ladder.replace(setup, vocabulary_multiple=64))(ids)
    assert more.shape[-1] == 2112 and plain.shape[-1] == MODEL.vocab_size == 2052
    assert torch.allclose(more[..., :2052], plain, atol=1e-5) and not more[..., 2052:].any()


def test_an_update_is_the_same_however_it_is_cut(as_before, texts):
    """Weights, not only the loss: batches of 2 or 4, sorted or not, one step each."""
    after = []
    for changes in ({}, {"by_length": True}):
        for size in (2, 4):
            training = ladder_row.Training(
                ladder_row.Setup("cpu", "tiny", size, fused=True, **changes), texts
            )
            assert training.update() == sum(len(row) - 1 for row in texts["train"][::2])
            after.append(torch.cat([p.detach().flatten() for p in training.model.parameters()]))
    assert all((other - after[0]).abs().mean() < 1e-6 for other in after[1:])
    assert (after[0] - torch.cat([p.flatten() for p in first_weights()])).abs().mean() > 1e-5


def first_weights():
    return [
        p.detach() for p in ladder_row.build_model(ladder_row.Setup("cpu", "tiny", 2)).parameters()
    ]


def test_rows_by_length_are_filled_up_less(as_before, texts):
    mixed, sorted_ = row_of(texts), row_of(texts, by_length=True)
    places = [sum(x.numel() for u in t.updates for x, _ in u) for t in (mixed, sorted_)]
    assert places[1] < places[0]


def test_an_error_is_told_in_a_line():
    error = RuntimeError("first\n   second " + "x" * 500)
    assert ladder_row.what_is_missing(error).startswith("RuntimeError: first second xxx")
    assert len(ladder_row.what_is_missing(error)) < 120
