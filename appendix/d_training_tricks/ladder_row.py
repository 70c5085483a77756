"""One row of the ladder of speed: a model, its optimiser and its updates, by one setup."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import shared.previous_chapters as chapters
from shared.machine import keep_freed_memory, num_cores, processor_name
from shared.previous_chapters import (
    GPT2_CONFIGS,
    IGNORED,
    GPTConfig,
    GPTModel,
    MultiHeadAttention,
    causal_weights,
    extend_tokenizer,
    pad_rows,
    story_rows,
    story_tokenizer,
)
from shared.stories import stories

Rows = list[list[int]]
UPDATES, WARM_UP = 2, 6  # different updates, used over and over; how many come before the clock
VOCABULARY = 2052  # 2,048 tokens of the stories and the four marks of a chat
SCALES = {  # the model, rows of text in an update, rows in a batch (at first, and larger)
    "tiny": (GPTConfig(VOCABULARY, 256, 16, 2, 1), 8, (2, 4)),
    "laptop": (GPTConfig(VOCABULARY, 256, 128, 4, 2), 32, (4, 16)),
    "gpt2": (GPT2_CONFIGS["gpt2"], 32, (4, 16)),
}


@dataclass(frozen=True)
class Setup:
    """All that a row is told. It differs in one field from the row that it stands on."""

    device: str
    scale: str
    batch_rows: int
    threads: int = 1
    matmul: str = "highest"  # "high" lets a GPU use TF32
    bf16: bool = False
    sdpa: bool = False  # one kernel in place of chapter 3's readable attention
    fused: bool = False  # AdamW as one kernel, not as a loop over the parameters
    convolutions: bool = False  # chapter 4's `fast_linear`, wanted or not
    compiled: bool = False
    vocabulary_multiple: int = 1
    by_length: bool = False  # similar lengths come together, each batch as wide as it must be
    keep_memory: bool = False
    flush_denormal: bool = False


class ReadableAttention(MultiHeadAttention):
    """Chapter 3's attention, its weights written out and kept for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(x)
        return self.out((causal_weights(q, k) @ v).transpose(1, 2).flatten(2))


def padded(size: int, multiple: int) -> int:
    """The next multiple of `multiple`, from `size` up."""
    return -(-size // multiple) * multiple


def text_rows(scale: str) -> dict[str, Rows]:
    """What is read and what is held out: stories, or for GPT-2 a line of them cut to windows."""
    tokenizer = extend_tokenizer(story_tokenizer(2048))
    config, count, _ = SCALES[scale]
    rows = {}
    for split, wanted in (("train", UPDATES * count), ("validation", count)):
        if scale != "gpt2":
            rows[split] = story_rows(islice(stories(seed=0, split=split), wanted), tokenizer)
            continue
        size = config.context_length + 1
        told = islice(stories(seed=0, split=split), wanted * size // 50)
        line = [token for row in story_rows(told, tokenizer) for token in row]
        rows[split] = [line[i * size : (i + 1) * size] for i in range(wanted)]
    return rows


def build_model(setup: Setup) -> GPTModel:
    """The same first weights in every row; tokens that nobody says start at zero."""
    config = SCALES[setup.scale][0]
    weights = GPTModel(config, seed=0).state_dict()
    more = padded(config.vocab_size, setup.vocabulary_multiple) - config.vocab_size
    table = weights["token_embedding.weight"]
    model = GPTModel(replace(config, vocab_size=config.vocab_size + more))
    model.load_state_dict(weights | {"token_embedding.weight": F.pad(table, (0, 0, 0, more))})
    for block in model.blocks:
        block.attention.__class__ = MultiHeadAttention if setup.sdpa else ReadableAttention
    return model.to(setup.device)


def settle_in(setup: Setup) -> None:
    """What belongs to the whole process.

    Raises: RuntimeError for what this computer cannot do.
    """
    torch.set_num_threads(setup.threads)
    torch.set_float32_matmul_precision(setup.matmul)
    chapters.convolution_pays = lambda: setup.convolutions
    if setup.compiled:
        chapters.fast_linear = F.linear  # as the compiler would choose, after asking about sizes
    if setup.compiled and setup.device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import

        get_cpp_compiler()  # raises now what would be raised after long work
    if setup.keep_memory and not keep_freed_memory():
        raise RuntimeError("needs the C library of Linux (mallopt)")
    if setup.flush_denormal and not torch.set_flush_denormal(True):
        raise RuntimeError("this processor cannot do it")


class Training:
    """What a row measures, a few updates at a time. `rows`: see `text_rows`."""

    def __init__(self, setup: Setup, rows: dict[str, Rows]) -> None:
        self.setup, self.done, self.began = setup, 0, time.perf_counter()
        settle_in(setup)
        self.memory_before = peak_mb(setup.device)
        read = rows["train"]
        self.updates = [self.batches(read[i::UPDATES], setup.batch_rows) for i in range(UPDATES)]
        self.held_out = self.batches(rows["validation"], SCALES[setup.scale][2][0])
        self.model = build_model(setup)
        self.forward = torch.compile(self.model) if setup.compiled else self.model
        how = {"fused": True} if setup.fused else {"fused": False, "foreach": False}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, **how)

    def batches(self, rows: Rows, size: int) -> list[tuple[Tensor, Tensor]]:
        """Rows in batches of `size`, filled up to the longest row of all, or of each batch."""
        width = max(map(len, rows)) - 1
        if self.setup.by_length:
            rows, width = sorted(rows, key=len), 0
        groups = [pad_rows(rows[i : i + size], width) for i in range(0, len(rows), size)]
        return [(x.to(self.setup.device), y.to(self.setup.device)) for x, y in groups]

    def update(self) -> int:
        """One step on the mean over all tokens of an update, however it is cut; their number."""
        batches, on = self.updates[self.done % UPDATES], self.setup.bf16
        asked = num_asked(batches)
        for inputs, targets in batches:
            with torch.autocast(self.setup.device, torch.bfloat16, enabled=on):
                logits = self.forward(inputs)
            (summed_loss(logits, targets) / asked).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return asked

    def first(self) -> dict[str, float]:
        """The first updates, and the loss after them on stories that were not read."""
        for _ in range(WARM_UP):
            self.update()
        known = SCALES[self.setup.scale][0].vocab_size
        with torch.no_grad():  # alike for all rows: float32, not compiled, of known tokens
            losses = [summed_loss(self.model(x)[..., :known], y) for x, y in self.held_out]
        if self.setup.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # from here on, training alone
        loss = sum(map(float, losses)) / num_asked(self.held_out)
        return {"loss": loss, "start_seconds": time.perf_counter() - self.began}

    def block(self) -> dict[str, float]:
        """Each of the updates once, by the clock."""
        start = time.perf_counter()
        tokens = sum(self.update() for _ in range(UPDATES))
        if self.setup.device == "cuda":
            torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    def memory(self) -> dict[str, float]:
        """How much memory was taken at most, and how much of it after the imports."""
        peak = peak_mb(self.setup.device)
        return {"memory_mb": peak, "training_mb": peak - self.memory_before}


def num_asked(batches: list[tuple[Tensor, Tensor]]) -> int:
    """How many tokens these batches ask for; what is filled up does not count."""
    return sum(int((targets != IGNORED).sum()) for _, targets in batches)


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of all tokens together, in nats."""
    flat = logits.float().flatten(0, 1)
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def peak_mb(device: str) -> float:
    """The most memory that this process has had, in MB: the GPU's, or else the computer's.

    On Linux it is VmHWM: getrusage's figure would begin with what the parent process had.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    import resource  # Windows has none, and the row says so

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on a Mac


def what_is_missing(error: Exception) -> str:
    """An error in a few words for the table."""
    inner = getattr(error, "inner_exception", None) or error
    said = " ".join(str(inner).split())
    if "compiler" in said.lower():
        return "needs a C++ compiler (g++ or clang++), and none was found"
    return f"{type(inner).__name__}: {said[:100]}"


def machine(device: str) -> dict:
    """What this ran on."""
    return {
        "processor": processor_name(),
        "cores": num_cores(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
    }


def work(setup: Setup, rows: dict[str, Rows], orders: Connection) -> None:
    """A row's process: does what it is told, until it is told to stop."""
    try:
        training = Training(setup, rows)
        while (order := orders.recv()) != "stop":
            orders.send(getattr(training, order)())
    except Exception as error:  # compilers and small GPUs fail in many ways
        orders.send({"failed": what_is_missing(error)})
