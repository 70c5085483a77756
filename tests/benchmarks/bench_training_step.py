"""One training step of `GPTModel` against transformers' GPT-2, and GPT-2's size on a GPU."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import shared.previous_chapters as chapters
from shared.previous_chapters import GPT2_CONFIGS, GPTConfig, GPTModel
from tests.test_ch04_gpt_model import mapped, some_ids, transformers_gpt2

LAPTOP = GPTConfig(vocab_size=1024, context_length=128, embed_dim=128, num_heads=4, num_layers=4)
BATCH_SIZE = 32
REPEATS = 30
BAR = 1.15
ODD_SIZES = ((61, 13, 24, 3, 2), (97, 7, 40, 5, 3), (5, 31, 6, 1, 1), (203, 17, 36, 9, 4))
# Dense bf16 FLOPs per second, as published. Other cards: measured on a large matrix product.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


def train_step(model: nn.Module, logits_of: Callable, ids: torch.Tensor) -> Callable[[], None]:
    """A function that does one step on `ids`: forward, backward, AdamW; the same for all models."""
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].flatten()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss = F.cross_entropy(logits_of(inputs).flatten(0, 1).float(), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def medians(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each step; the steps take turns, so that a busy machine slows all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat >= 3:  # the first ones warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def without_convolutions(step: Callable[[], None]) -> Callable[[], None]:
    """The step with ordinary linear layers, to see how much of the gain comes from them."""

    def plain_step() -> None:
        pays, chapters.convolution_pays = chapters.convolution_pays, lambda: False
        try:
            step()
        finally:
            chapters.convolution_pays = pays

    return plain_step


def step_row() -> dict:
    """Tokens per second of a training step on the CPU, ours over transformers'."""
    theirs = transformers_gpt2(LAPTOP, seed=0)
    for part in theirs.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # ours has none
    ours = GPTModel(LAPTOP)
    ours.load_state_dict(mapped(theirs.state_dict(), LAPTOP.num_layers))
    ids = some_ids(BATCH_SIZE, LAPTOP.context_length + 1, LAPTOP)
    plain = copy.deepcopy(ours)
    steps = {
        "ours": train_step(ours, ours, ids),
        "plain": without_convolutions(train_step(plain, plain, ids)),
        "theirs": train_step(
            theirs.train(), lambda x: theirs(x, use_cache=False).logits, ids.clone()
        ),
    }
    seconds = medians(steps, REPEATS)
    ratio = seconds["theirs"] / seconds["ours"]
    speed = {name: BATCH_SIZE * LAPTOP.context_length / s for name, s in seconds.items()}
    return {
        "figure": f"training step, {ours.num_parameters():,} parameters, batch 32×128, "
        "tokens/s over transformers'",
        "bar": f"≥ {BAR}",
        "measured": f"{ratio:.2f}",
        "met": ratio >= BAR,
        "note": f"{speed['ours']:,.0f} against {speed['theirs']:,.0f} tokens/s; float32, same "
        f"weights, same AdamW, medians of {REPEATS} in turns; "
        f"{seconds['theirs'] / seconds['plain']:.2f} with ordinary linear layers",
    }


def logits_row() -> dict:
    """The largest difference of any logit from transformers', over odd sizes."""
    largest, count = 0.0, 0
    for sizes in ODD_SIZES:
        config = GPTConfig(*sizes)
        theirs = transformers_gpt2(config, seed=sum(sizes))
        ours = GPTModel(config).eval()
        ours.load_state_dict(mapped(theirs.state_dict(), config.num_layers))
        for batch, tokens in ((1, 1), (3, config.context_length), (18, config.context_length // 2)):
            ids = some_ids(batch, tokens, config, seed=tokens)
            with torch.no_grad():
                largest = max(largest, (ours(ids) - theirs(ids).logits).abs().max().item())
            count += batch * tokens * config.vocab_size
    return {
        "figure": "logits against transformers, random GPT-2 weights, odd sizes",
        "bar": "≤ 1e-4",
        "measured": f"{largest:.1e}",
        "met": largest <= 1e-4,
        "note": f"{count:,} logits of {len(ODD_SIZES)} models",
    }


def peak_flops() -> tuple[float, str]:
    """FLOPs per second that this GPU reaches at most in bf16, and where the number is from."""
    name = torch.cuda.get_device_name()
    for card, peak in PEAKS.items():
        if card in name:
            return peak, f"{peak / 1e12:.0f} TFLOP/s as published"
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        square @ square
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = 2 * 8192**3 / min(times)
    return peak, f"{peak / 1e12:.0f} TFLOP/s measured on a matrix product"


def gpu_row() -> dict:
    """Training speed of GPT-2's smallest size on a GPU, bf16, compiled."""
    row = {"figure": "GPTModel 124M, CUDA, bf16, compiled: tokens/s and MFU", "bar": "works"}
    if not torch.cuda.is_available():
        return row | {"measured": "no GPU here", "met": None}
    torch.set_float32_matmul_precision("high")
    config, batch_size, rounds = GPT2_CONFIGS["gpt2"], 16, 20
    model = GPTModel(config, seed=0).cuda()
    compiled = torch.compile(model)

    def logits_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return compiled(ids)

    ids = some_ids(batch_size, config.context_length + 1, config).cuda()
    step = train_step(model, logits_of, ids)
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        step()
    torch.cuda.synchronize()
    speed = rounds * batch_size * config.context_length / (time.perf_counter() - start)
    peak, source = peak_flops()
    used = speed * model.flops_per_token(config.context_length, training=True) / peak
    return row | {
        "measured": f"{speed:,.0f} tokens/s, MFU {used:.0%}",
        "met": True,
        "note": f"{torch.cuda.get_device_name()}, batch {batch_size}×1024; MFU of {source}",
    }


def rows() -> list[dict]:
    """The rows of the table."""
    return [step_row(), logits_row(), gpu_row()]
