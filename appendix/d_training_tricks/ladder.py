"""A ladder of speed: one GPT, trained by the same updates; each row makes one change more.

    python appendix/d_training_tricks/ladder.py                  on the CPU: about three minutes
    python appendix/d_training_tricks/ladder.py --device cuda    a GPT-2 of 124M, on a GPU

Every row runs in a process of its own, so that its memory is its own. It takes turns with the row
that it stands on, so that a machine which slows down slows both. A row that is slower, or another
model, stays in the table, and the next one does not stand on it. Tokens are those that the loss
asks for; what fills up a batch does not count. Written to results/ladder.json (ladder_cuda.json).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from ladder_row import SCALES, UPDATES, WARM_UP, Rows, Setup, machine, text_rows, work

from shared.machine import num_cores
from shared.previous_chapters import GPTModel

RESULTS = Path(__file__).parent / "results"
# How far a change may move the loss after six updates, in nats. Measured on a CPU: another order of
# the same sums moved it by 2e-7, bfloat16 by 8e-5, unsaid tokens by 3e-4; one update less, by 0.11.
ROUNDING, TF32, HALF, UNSAID = 1e-4, 2e-3, 0.01, 2e-3


@dataclass(frozen=True)
class Change:
    """One rung: the field that changes, how far it may move the loss, and why."""

    name: str
    field: str
    value: object
    tolerance: float = ROUNDING
    why: str = "the same sums, in another order"
    missing: str = ""  # why there is no such row on this device


def changes(device: str, scale: str, threads: int) -> list[Change]:
    """The rungs in their order; those that this device does not have say so."""
    larger = SCALES[scale][2][1]
    gpu, cpu = ("", "CPU only") if device == "cuda" else ("CUDA only", "")
    one = cpu or ("" if threads > 1 else "one thread is all that there is")
    unsaid = "tokens that nobody says take a share of the chances, until they have learnt"
    return [
        Change(f"{threads} threads", "threads", threads, missing=one),
        Change("TF32", "matmul", "high", TF32, "products of 10 bits instead of 23", gpu),
        Change("bf16", "bf16", True, HALF, "products of 7 bits instead of 23"),
        Change("SDPA", "sdpa", True),
        Change("fused AdamW", "fused", True),
        Change("linear as convolution", "convolutions", True, missing=cpu),
        Change("torch.compile", "compiled", True),
        Change("padded vocabulary", "vocabulary_multiple", 64, UNSAID, unsaid),
        Change(f"batches of {larger} rows", "batch_rows", larger),
        Change("rows by length", "by_length", True, missing=cpu and "all rows are equally long"),
        Change("keep freed memory", "keep_memory", True, 1e-5, "no number changes", cpu),
        Change("flush denormals", "flush_denormal", True, missing=cpu, why="below 1e-38 counts 0"),
    ]


@dataclass
class Row:
    """One line of the table. Where nothing was measured, `verdict` says why."""

    name: str
    change: dict
    stands_on: str = ""
    verdict: str = "measured"
    kept: bool = False
    tokens_per_second: float | None = None
    ratio: float | None = None  # times as fast as the row it stands on: median of paired ratios
    ratio_low: float | None = None  # the lowest and the highest of them
    ratio_high: float | None = None
    times_naive: float | None = None  # the product of the ratios of all rows it stands on
    memory_mb: float | None = None
    training_mb: float | None = None
    loss: float | None = None
    loss_difference: float | None = None
    tolerance: float | None = None
    tolerance_why: str = ""
    agrees: bool | None = None
    start_seconds: float | None = None
    seconds: list[float] = field(default_factory=list)  # of each block
    setup: dict = field(default_factory=dict)


class Runner:
    """A row and its process."""

    def __init__(self, row: Row, setup: Setup, rows: dict[str, Rows]) -> None:
        self.row, self.setup, self.rows = row, setup, rows
        row.setup = asdict(setup)
        context = multiprocessing.get_context("spawn")
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(setup, rows, theirs))
        self.process.daemon = True  # it ends with this one, whatever happens
        self.process.start()
        theirs.close()
        self.ready = self.fill("first")
        if not self.ready:
            self.process.join()

    def ask(self, order: str) -> dict:
        """What the process answers."""
        with suppress(BrokenPipeError):  # it may have failed already; then its answer is there
            self.orders.send(order)
        try:
            return self.orders.recv()
        except EOFError:
            return {"failed": "the process ended: was there enough memory?"}

    def fill(self, order: str) -> bool:
        """Write the answer into the row; False where there was none, and the row says why."""
        answer = self.ask(order)
        for name, value in answer.items():
            setattr(self.row, "verdict" if name == "failed" else name, value)
        return "failed" not in answer

    def block(self) -> float:
        """Seconds for the updates, once each."""
        answer = self.ask("block")
        if "failed" in answer:
            raise RuntimeError(f"{self.row.name}: {answer['failed']}")
        self.row.seconds.append(answer["seconds"])
        self.row.tokens_per_second = answer["tokens"] / statistics.median(self.row.seconds)
        return answer["seconds"]

    def stop(self) -> None:
        """The last answer, and the end of the process."""
        if self.process.is_alive():
            self.fill("memory")
            self.orders.send("stop")
        self.process.join()


def climb(base: Runner, change: Change, repeats: int) -> tuple[Row, Runner]:
    """Measure one change in turns with `base`; its row, and what the next row stands on."""
    row = Row(change.name, {change.field: change.value}, base.row.name, change.missing)
    if change.missing:
        return row, base
    new = Runner(row, replace(base.setup, **row.change), base.rows)
    if not new.ready:
        return row, base
    ratios = []
    for turn in range(repeats):  # now one of them first, now the other
        taken = {runner: runner.block() for runner in ((base, new), (new, base))[turn % 2]}
        ratios.append(taken[base] / taken[new])
    judge(row, base.row, change, ratios)
    (base if row.kept else new).stop()
    return row, new if row.kept else base


def judge(row: Row, base: Row, change: Change, ratios: list[float]) -> None:
    """What the paired ratios and the loss say.

    Faster or slower: in every turn. With five turns and no difference, luck does that in 1 of 16.
    """
    row.ratio, row.ratio_low, row.ratio_high = statistics.median(ratios), min(ratios), max(ratios)
    row.times_naive = row.ratio * base.times_naive
    faster, slower = row.ratio_low > 1, row.ratio_high < 1
    row.verdict = "faster" if faster else "slower" if slower else "no clear difference"
    row.loss_difference = row.loss - base.loss
    row.tolerance, row.tolerance_why = change.tolerance, change.why
    if row.setup["bf16"] and change.tolerance < HALF and change.field != "keep_memory":
        row.tolerance, row.tolerance_why = HALF, "sums of bfloat16, in another order"
    row.agrees = abs(row.loss_difference) <= row.tolerance
    row.kept = row.agrees and not slower
    if change.field == "compiled":  # it has to earn the time that it takes in every later row
        row.kept = row.kept and row.ratio_low > 1.05


def ladder(device: str, scale: str, threads: int, repeats: int) -> dict:
    """The whole table, as it is written to the file."""
    start = time.perf_counter()
    naive = Row("naive", {}, verdict="the first row", kept=True, times_naive=1.0, agrees=True)
    base = Runner(naive, Setup(device, scale, SCALES[scale][2][0]), text_rows(scale))
    if not base.ready:
        raise SystemExit(f"The first row cannot run here: {naive.verdict}")
    rows = [naive]
    for change in changes(device, scale, threads):
        row, base = climb(base, change, repeats)
        rows.append(row)
        print(f"{row.name}: {row.verdict}", flush=True)
    base.stop()
    config, rows_per_update, _ = SCALES[scale]
    settings = {"rows_per_update": rows_per_update, "updates_before": WARM_UP, "seed": 0}
    settings |= {"updates_a_block": UPDATES, "repeats": repeats, "threads": threads}
    return {
        "what": "training speed and memory of one GPT, one change a row",
        "device": device,
        "scale": scale,
        "model": asdict(config) | {"parameters": GPTModel(config).num_parameters()},
        "settings": settings | {"learning_rate": 1e-3},
        "machine": machine(device),
        "seconds": round(time.perf_counter() - start, 1),
        "rows": [asdict(row) for row in rows],
    }


def line(values: dict) -> str:
    """A row for the screen."""
    row = Row(**values)
    if row.tokens_per_second is None:
        return f"{row.name:22} {row.verdict}"
    speed = f"{row.name:22} {row.tokens_per_second:9,.0f} tokens/s {row.times_naive:6.2f}x "
    if row.ratio is None:
        return speed
    pair = f"(x {row.ratio:.2f}, {row.ratio_low:.2f} to {row.ratio_high:.2f}: {row.verdict})"
    loss = f"loss {row.loss:.4f} ({row.loss_difference:+.1e}{'' if row.agrees else ' TOO FAR'})"
    return f"{speed} {pair}  {loss}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--scale", choices=list(SCALES), help="laptop on a CPU, gpt2 on a GPU")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--quick", action="store_true", help="3 turns of each pair, not 5")
    parser.add_argument("--out", type=Path, help="where to write the table")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA here: --device cpu, or run this on a machine with a GPU")
    scale = given.scale or ("gpt2" if given.device == "cuda" else "laptop")
    with tempfile.TemporaryDirectory() as compiled:  # so that compiling takes its time in each run
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        table = ladder(given.device, scale, given.threads, 3 if given.quick else 5)
    print(*(line(row) for row in table["rows"]), sep="\n")
    name = "ladder.json" if given.device == "cpu" else "ladder_cuda.json"
    path = given.out or RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{table['seconds']:.0f} s; written to {path.name}")
    return 0 if all(row["agrees"] is not False for row in table["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
