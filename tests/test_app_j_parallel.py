"""Appendix J, second half: shards, batches by rank, the ring, and train.py on several processes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shared.appendices import (
    TokenShards,
    filled_shards,
    map_shards,
    qkv_rank_order,
    rank_batch,
    rank_windows,
    read_shard_sheet,
    ring_all_reduce,
    shuffled_place,
    write_token_shards,
)
from shared.artifacts import ROOT
from shared.previous_chapters import (
    GPTConfig,
    GPTModel,
    MultiHeadAttention,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)

FOLDER = ROOT / "appendix" / "j_scaling"
VOCAB, CONTEXT = 61, 9  # odd: neither can be halved


def odd_pieces(seed: int = 0, count: int = 40, vocab: int = VOCAB) -> list[list[int]]:
    """Texts of 0 to 30 ids."""
    dice = np.random.default_rng(seed)
    return [dice.integers(0, vocab, dice.integers(0, 31)).tolist() for _ in range(count)]


def flat(pieces: list[list[int]]) -> list[int]:
    return [token for piece in pieces for token in piece]


# --- shards


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_shards_give_back_what_was_written(tmp_path, size):
    pieces = odd_pieces(count=6 if size == 1 else 40)  # every file is brought to the disk
    sheet = write_token_shards(tmp_path, pieces, VOCAB, size)
    shards = TokenShards(tmp_path)
    ids = flat(pieces)
    assert len(shards) == len(ids) and shards.vocab_size == VOCAB
    assert [one["tokens"] for one in sheet["shards"]] == [
        min(size, len(ids) - start) for start in range(0, len(ids), size)
    ]
    assert shards.read(0, len(ids)).tolist() == ids
    for start in range(0, len(ids), 13):
        count = min(29, len(ids) - start)
        assert shards.read(start, count).tolist() == ids[start : start + count]
    assert shards.read(len(ids), 0).tolist() == [] and shards.read(3, 2).dtype == torch.int64
    shards.check()


def test_the_bytes_are_plain_little_numbers(tmp_path):
    write_token_shards(tmp_path, [[1, 2], [60]], VOCAB, 2)
    files = sorted(tmp_path.glob("*.bin"))
    assert [path.read_bytes() for path in files] == [b"\x01\x00\x02\x00", b"\x3c\x00"]


@pytest.mark.parametrize("vocab, dtype", [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_large_vocabularies_get_larger_numbers(tmp_path, vocab, dtype):
    ids = [0, 65_535, vocab - 1, 3]
    assert write_token_shards(tmp_path, [ids], vocab, 3)["dtype"] == dtype
    assert TokenShards(tmp_path).read(0, 4).tolist() == ids


@pytest.mark.parametrize("bad", [[VOCAB], [3, -1], [65_536 + 5]])
def test_ids_outside_the_vocabulary_are_refused_and_leave_no_set(tmp_path, bad):
    write_token_shards(tmp_path, [[1, 2, 3]], VOCAB, 2)
    with pytest.raises(ValueError, match="expected 0 to 60"):
        write_token_shards(tmp_path, [[1, 2, 3], bad], VOCAB, 2)
    with pytest.raises(FileNotFoundError, match="never finished"):
        TokenShards(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_nothing_to_write(tmp_path):
    with pytest.raises(ValueError, match="no token ids"):
        write_token_shards(tmp_path, [[], []], VOCAB, 5)
    with pytest.raises(ValueError, match="tokens_per_shard=0"):
        list(filled_shards([[1]], VOCAB, 0))


def test_damage_is_found(tmp_path):
    write_token_shards(tmp_path, [list(range(10))], VOCAB, 4)
    victim = tmp_path / "tokens-00001.bin"
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + b"\x01")
    with pytest.raises(ValueError, match="tokens-00001.bin is damaged"):
        TokenShards(tmp_path).check()
    for bad in (good[:-1], good + b"\x00", b""):
        victim.write_bytes(bad)
        with pytest.raises(ValueError, match=f"has {len(bad)} bytes, expected 8"):
            TokenShards(tmp_path)
    victim.unlink()
    with pytest.raises(ValueError, match="missing"):
        map_shards(tmp_path, read_shard_sheet(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"dtype": "float32"},
        {"shards": []},
        {"vocab_size": None},
        {"shards": 3},
    ],
)
def test_a_foreign_sheet_is_refused(tmp_path, change):
    sheet = write_token_shards(tmp_path, [[1, 2, 3]], VOCAB, 2)
    (tmp_path / "tokens.json").write_text(json.dumps(sheet | change))
    with pytest.raises(ValueError, match="no sheet of token shards"):
        TokenShards(tmp_path)


def test_places_outside_are_refused(tmp_path):
    write_token_shards(tmp_path, [[1, 2, 3]], VOCAB, 2)
    for start, count in ((-1, 1), (0, 4), (3, 1), (2, -1)):
        with pytest.raises(IndexError, match="but there are 3"):
            TokenShards(tmp_path).read(start, count)


def test_neither_writing_nor_reading_holds_the_text(tmp_path):
    piece, count = list(range(50)) * 20, 400  # 400 000 ids: 3 MB as int64
    tracemalloc.start()
    try:
        write_token_shards(tmp_path, (piece for _ in range(count)), VOCAB, 10_000)
        shards = TokenShards(tmp_path)
        for step in range(30):
            rank_batch(shards, step, batch_size=4, context_length=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(shards) == count * len(piece) and peak < 500_000


# --- which rank reads what


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 64, 65, 1000])
def test_the_shuffle_gives_every_card_a_place_of_its_own(count):
    places = [shuffled_place(card, count, "key") for card in range(count)]
    assert sorted(places) == list(range(count))
    if count > 10:
        assert places != [shuffled_place(card, count, "other") for card in range(count)]
        assert places != list(range(count))


def test_the_shuffle_stays_what_it_was():
    """A run that goes on with a later version of the course has to read the same rows."""
    assert [shuffled_place(i, 10, "seed 0") for i in range(10)] == [2, 4, 7, 6, 0, 1, 3, 8, 9, 5]
    with pytest.raises(ValueError, match="place 10 among 10"):
        shuffled_place(10, 10, "")


@pytest.mark.parametrize("windows, batch_size", [(10, 4), (7, 12), (1, 6), (50, 6)])
def test_passes_take_each_window_once_and_ranks_share_each_batch(windows, batch_size):
    read = []
    for step in range(3 * windows):
        whole = rank_windows(windows, step, batch_size, 5)
        for ranks in (1, 2, batch_size):
            parts = [rank_windows(windows, step, batch_size, 5, r, ranks) for r in range(ranks)]
            assert flat(parts) == whole and len({len(part) for part in parts}) == 1
        read += whole
    for start in range(0, len(read) - windows + 1, windows):
        assert sorted(read[start : start + windows]) == list(range(windows))
    if windows >= 10:
        assert read[:windows] != read[windows : 2 * windows]
        assert rank_windows(windows, 0, batch_size, 6) != rank_windows(windows, 0, batch_size, 5)


def test_rank_batches_are_windows_of_the_text(tmp_path):
    ids = flat(odd_pieces(3))
    write_token_shards(tmp_path, [ids], VOCAB, 50)
    shards = TokenShards(tmp_path)
    windows = [ids[i : i + CONTEXT + 1] for i in range(0, len(ids) - CONTEXT, CONTEXT)]
    plan = {"batch_size": 6, "context_length": CONTEXT, "seed": 2}
    for step in (0, 1, 10**9):
        whole, after = rank_batch(shards, step, **plan)
        assert whole.shape == after.shape == (6, CONTEXT)
        assert all(
            [*x, y[-1]] in windows for x, y in zip(whole.tolist(), after.tolist(), strict=True)
        )
        assert torch.equal(whole[:, 1:], after[:, :-1])
        parts = [rank_batch(shards, step, rank=r, num_ranks=3, **plan) for r in range(3)]
        assert torch.equal(torch.cat([x for x, _ in parts]), whole)
        assert torch.equal(torch.cat([y for _, y in parts]), after)


def test_batches_that_cannot_be(tmp_path):
    write_token_shards(tmp_path, [list(range(10))], VOCAB, 4)
    shards = TokenShards(tmp_path)
    assert rank_batch(shards, 0, batch_size=1, context_length=9)[1].tolist() == [list(range(1, 10))]
    with pytest.raises(ValueError, match="10 tokens in .* expected at least 11"):
        rank_batch(shards, 0, batch_size=1, context_length=10)
    for size, rank, ranks in ((5, 0, 2), (0, 0, 1), (4, 2, 2), (4, -1, 2)):
        with pytest.raises(ValueError, match=f"batch_size={size}, rank {rank} of {ranks}"):
            rank_windows(8, 0, size, 0, rank, ranks)


# --- sums in a ring, and heads that stay together


@pytest.mark.parametrize(
    "ranks, shape", [(1, (5,)), (2, (3, 5)), (3, (7,)), (5, (2,)), (4, (4, 3))]
)
def test_the_ring_adds_up(ranks, shape):
    generator = torch.Generator().manual_seed(ranks)
    vectors = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(ranks)]
    before = [vector.clone() for vector in vectors]
    sums, sent = ring_all_reduce(vectors)
    for one in sums:
        torch.testing.assert_close(one, sum(before))
    assert all(torch.equal(a, b) for a, b in zip(vectors, before, strict=True)), "unchanged"
    size = vectors[0].numel()
    assert sum(sent) == 2 * (ranks - 1) * size  # each piece makes 2 (N - 1) journeys
    if size % ranks == 0:
        assert sent == [2 * (ranks - 1) * size // ranks] * ranks


def test_the_ring_stopped_half_way_has_one_finished_piece_each():
    half, _ = ring_all_reduce([torch.ones(4)] * 4, turns=3)
    assert [one.tolist().count(4.0) for one in half] == [1, 1, 1, 1]
    assert torch.stack(half).eq(4).sum(0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("vectors", [[], [torch.ones(3), torch.ones(4)]])
def test_the_ring_needs_equal_vectors(vectors):
    with pytest.raises(ValueError, match="expected one a rank"):
        ring_all_reduce(vectors)


@pytest.mark.parametrize("dim, heads, ranks", [(20, 4, 2), (20, 4, 4), (30, 6, 3), (12, 3, 1)])
def test_a_rank_of_a_reordered_qkv_is_a_small_attention(dim, heads, ranks):
    torch.manual_seed(0)
    whole, x = MultiHeadAttention(dim, heads), torch.randn(3, 7, dim)
    order = qkv_rank_order(dim, heads, ranks)
    assert sorted(order.tolist()) == list(range(3 * dim))
    total = whole.out.bias
    for rows, own in zip(order.chunk(ranks), torch.arange(dim).chunk(ranks), strict=True):
        part = MultiHeadAttention(dim, heads)
        part.num_heads //= ranks
        part.qkv.weight, part.qkv.bias = (nn.Parameter(p[rows]) for p in whole.qkv.parameters())
        part.out.weight = nn.Parameter(whole.out.weight[:, own])
        total = total + part(x) - part.out.bias
    torch.testing.assert_close(total, whole(x))


def test_heads_are_not_cut():
    with pytest.raises(ValueError, match="num_heads=3, num_ranks=2"):
        qkv_rank_order(12, 3, 2)


# --- train.py


def train_script():
    spec = importlib.util.spec_from_file_location("j_scaling_train", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Place:
    """Shards, a start with sharp attention, and what trains on them."""

    folder: Path
    script: object
    settings: tuple = ("--steps", "6", "--batch-size", "6", "--context-length", f"{CONTEXT}")
    settings += ("--embed-dim", "20", "--num-heads", "4", "--num-layers", "3")
    settings += ("--save-every", "3", "--seed", "3", "--rate", "0.01")

    def arguments(self, out: str, *options: str) -> list[str]:
        return [str(self.folder / "shards"), str(self.folder / out), *self.settings, *options]

    def alone(self, out: str, *options: str) -> list[dict]:
        """Train in this very process; the history."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", *self.arguments(out, *options)])
            patch.setattr(torch.cuda, "device_count", lambda: 0)  # numbers are compared
            self.script.main()
        return self.history(out)

    def history(self, out: str) -> list[dict]:
        """The last word on each step."""
        lines = (self.folder / out / "history.jsonl").read_text().splitlines()
        return list({line["step"]: line for line in map(json.loads, lines)}.values())

    def begin(self, out: str, source: str = "start", step: int = 0) -> None:
        """Let a run begin from another one's checkpoint."""
        for path in (self.folder / source).glob(f"step-{step:06d}.*"):
            (self.folder / out).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, self.folder / out)

    def tensors(self, out: str, step: int = 6) -> dict[str, torch.Tensor]:
        return read_checkpoint(self.folder / out / f"step-{step:06d}.safetensors")[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """Weights that are ten times as large as GPT-2's: a wrong head would be heard at once."""
    here = Place(tmp_path_factory.mktemp("j"), train_script())
    write_token_shards(here.folder / "shards", odd_pieces(1, 60), VOCAB, 333)
    total = len(TokenShards(here.folder / "shards"))
    model = GPTModel(GPTConfig(VOCAB, CONTEXT, 20, 4, 3), seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(10) if p.ndim == 2 else p.add_(0.1 * torch.arange(len(p)) / len(p))
    zeros = {f"{key}.{n}": torch.zeros_like(p) for n, p in model.named_parameters() for key in KEYS}
    settings = {"steps": 6, "batch_size": 6, "seed": 3, "rate": 0.01, "tokens": total}
    save_checkpoint(
        here.folder / "start" / "step-000000.safetensors", model, zeros, step=0, settings=settings
    )
    for out in ("one", "two/ddp", "two/fsdp", "two/tp", "agents/ddp"):
        here.begin(out)
    here.alone("one")
    return here


KEYS = ("exp_avg", "exp_avg_sq")
TOLERANCE = 2e-5  # nats of a loss of about 4, after steps that move every weight by 0.01


def close(one: list[dict], other: list[dict], first: int = 0) -> None:
    assert [line["step"] for line in one] == list(range(first, 6))
    for a, b in zip(one, other[first:], strict=True):
        assert abs(a["loss"] - b["loss"]) < TOLERANCE, (a, b)
        assert abs(a["norm"] - b["norm"]) < 10 * TOLERANCE * b["norm"], (a, b)


def surroundings(**more: str) -> dict[str, str]:
    """Of a process under torchrun: one thread, loopback only, this checkout's modules."""
    loopback = {"linux": "lo", "darwin": "lo0"}[sys.platform]
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": loopback}
    clean = {name: value for name, value in os.environ.items() if "COV" not in name}
    fixed |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return clean | fixed | more


def end_all(pid: int) -> None:
    """End a process and all that it has started: torchrun's workers would outlive it."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        first.suspend()
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def launched(commands: list[list[str]], env: dict[str, str], seconds: float = 400) -> None:
    """Run commands side by side; all have to end well, and none stays behind."""
    kind = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": env}
    jobs = [subprocess.Popen(command, cwd=ROOT, **kind) for command in commands]
    try:
        said = [job.communicate(timeout=seconds)[0] for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                end_all(job.pid)
                job.communicate()
    assert [job.returncode for job in jobs] == [0] * len(jobs), "\n".join(said)[-6000:]


no_gloo = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_gloo_available(), reason="needs gloo"
)


@pytest.fixture(scope="module")
def two(place) -> Place:
    """Two processes under torchrun, three ways one after the other: starting them is what costs."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    start += ["--local-addr", "127.0.0.1", str(FOLDER / "train.py")]
    options = place.arguments("two", "--parallel", "ddp", "fsdp", "tp")
    launched([[*start, *options]], surroundings())
    return place


@no_gloo
def test_two_processes_train_as_one_does(two):
    one = two.history("one")
    assert one[-1]["loss"] < one[0]["loss"] - 0.1
    numbers = GPTModel(GPTConfig(VOCAB, CONTEXT, 20, 4, 3)).num_parameters()
    for way in ("ddp", "fsdp", "tp"):
        close(two.history(f"two/{way}"), one)
        assert {line["ranks"] for line in two.history(f"two/{way}")} == {2}
        there = two.tensors(f"two/{way}")
        for name, tensor in two.tensors("one").items():
            apart = (there[name] - tensor).abs()
            if name.endswith("qkv.bias"):  # a key's bias shifts all scores alike: its slope is
                apart[20:40] = 0  # rounding alone, and AdamW makes full steps of it
            assert apart.max() < 2e-4, f"{way}: {name}"  # a single step moves it by up to 0.01
        # A process keeps all or half of it, and little more; all of them together miss nothing.
        held = [json.loads(p.read_text()) for p in (two.folder / f"two/{way}").glob("held-*.json")]
        shares = [sum(one.values()) / (16 * numbers) for one in held]
        assert len(shares) == 2 and all(one["weights"] == one["gradients"] for one in held)
        least, most, total = {"ddp": (1, 1, 2), "fsdp": (0.49, 0.51, 1), "tp": (0.5, 0.55, 1)}[way]
        assert all(least <= share <= most for share in shares) and sum(shares) >= total - 1e-9
        # Chapter 5 reads it.
        model, notes = load_checkpoint(two.folder / f"two/{way}" / "step-000006.safetensors")
        assert notes["step"] == 6 and model.config.vocab_size == VOCAB
        # And what two have begun, one can end.
        two.begin(f"rest-{way}", f"two/{way}", 3)
        close(two.alone(f"rest-{way}"), one, 3)


@no_gloo
def test_two_machines_a_killed_worker_and_what_one_has_begun(two):
    """Two agents meet by launch.sh: a worker dies in ddp; fsdp, tp go on from one's checkpoint."""
    for way in ("fsdp", "tp"):
        two.begin(f"agents/{way}", "one", 3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    card = surroundings()["GLOO_SOCKET_IFNAME"]
    env = surroundings(NODES="2", MEET=f"localhost:{port}", RUN_ID="test", PROCESSES="1")
    env |= {"CARD": card, "ADDRESS": "127.0.0.1", "RESTARTS": "2", "PYTHON": sys.executable}
    options = ("--parallel", "ddp", "fsdp", "tp", "--kill-at", "4")
    launched([[str(FOLDER / "launch.sh"), *two.arguments("agents", *options)]] * 2, env)
    lines = (two.folder / "agents/ddp/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 3, 4, 5], "killed at 4"
    for line, calm in zip(two.history("agents/ddp"), two.history("two/ddp"), strict=True):
        assert (line["loss"], line["norm"]) == (calm["loss"], calm["norm"]), "bit for bit"
    calm = two.tensors("two/ddp")
    assert all(torch.equal(t, calm[name]) for name, t in two.tensors("agents/ddp").items())
    for way in ("fsdp", "tp"):
        close(two.history(f"agents/{way}"), two.history("one"), 3)


def test_a_stopped_run_goes_on_bit_for_bit(place):
    place.begin("stopped")
    assert len(place.alone("stopped", "--stop-at", "4")) == 4
    again = place.alone("stopped")
    assert [line["loss"] for line in again] == [line["loss"] for line in place.history("one")]
    whole = place.tensors("one")
    assert all(torch.equal(t, whole[name]) for name, t in place.tensors("stopped").items())
    assert place.alone("stopped") == again, "a finished run does nothing more"


def test_what_cannot_be_run(place, monkeypatch):
    with pytest.raises(SystemExit, match="start ddp, fsdp and tp with torchrun"):
        place.alone("nothing", "--parallel", "ddp")
    with pytest.raises(SystemExit, match="rate is 0.01 in the file, 0.5 here"):
        place.alone("one", "--rate", "0.5")


def test_clipping_is_that_of_pytorch(place):
    one, other = (GPTModel(GPTConfig(VOCAB, CONTEXT, 20, 4, 2), seed=0) for _ in range(2))
    ids = torch.arange(2 * CONTEXT).view(2, CONTEXT)
    for model in (one, other):
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    for longest in (100.0, 0.3):
        length = place.script.clip(one, longest)
        theirs = nn.utils.clip_grad_norm_(other.parameters(), longest).item()
        assert length == pytest.approx(theirs, rel=1e-5)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_arguments_have_defaults_that_work(place, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "a", "b"])
    args = place.script.read_arguments()
    assert isinstance(args, argparse.Namespace) and args.parallel == ["none"] and args.steps == 20
    assert GPTConfig(VOCAB, args.context_length, args.embed_dim, args.num_heads, args.num_layers)
