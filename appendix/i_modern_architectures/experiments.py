"""Appendix I's long comparison: every change to GPT-2 at equal budget, several seeds each.

    python appendix/i_modern_architectures/experiments.py compare [--minutes 4] [--seeds 3]
    python appendix/i_modern_architectures/experiments.py speed

`compare` trains what is still missing, one run after the other, seed by seed, and writes
results/compare.json after each, so it can be stopped at any time and goes on where it was. All
variants of a seed read the same stories in the same order. `speed` lets all variants take turns
on the same batches and writes results/speed.json. Times are of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from shared.appendices import (
    DeltaAttention,
    LatentAttention,
    MixtureOfExperts,
    ModernConfig,
    ModernModel,
    TwoAhead,
    equal_budget_run,
    layer_window,
    modern_loss,
    route_tokens,
)
from shared.artifacts import written_whole
from shared.machine import keep_freed_memory, machine_line
from shared.previous_chapters import (
    IGNORED,
    StoryBatches,
    StoryRecipe,
    evaluate,
    pack_rows,
    pad_rows,
    story_rows,
    story_tokenizer,
)
from shared.stories import stories

RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "vocab_size": 1024,
    "context_length": 256,
    "embed_dim": 64,
    "total_tokens": 80_000,
    "tokens_per_batch": 600,
    "batch_growth": 2.0,
    "validation_stories": 120,
}


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a model, and what it is compared with."""

    what: str  # for the reader
    against: str  # name of the variant that it differs from in one thing
    config: ModernConfig
    attention: Callable | None = None  # instead of ModernAttention
    ahead: bool = False  # train with a second token to predict
    balance: float = 0.0  # weight of the load-balancing loss


def gpt2_sizes() -> ModernConfig:
    """The start: chapter 4's architecture at this comparison's size."""
    dim, heads = SETTINGS["embed_dim"], 4
    sizes = (dim, 2, heads, heads, dim // heads, 4 * dim)
    return ModernConfig(
        SETTINGS["vocab_size"],
        SETTINGS["context_length"],
        *sizes,
        norm="layer",
        norm_eps=1e-5,
        positions="learned",
        feed_forward="gelu",
        bias=True,
    )


def variants() -> dict[str, Variant]:
    """All rows, in the order in which the notebook tells them."""
    start = gpt2_sizes()
    gated = {"feed_forward": "silu", "hidden_dim": 172}  # as many numbers as 2 · 4 · 64 · 64
    modern = replace(start, norm="rms", norm_eps=1e-6, positions="rope", bias=False, **gated)
    experts = replace(modern, num_experts=8, experts_per_token=2, hidden_dim=86)
    latent = partial(LatentAttention, latent=24, turned=8)
    rms = replace(start, norm="rms", norm_eps=1e-6)
    window = replace(modern, window=16, global_layers=(1,))
    return {
        "gpt2": Variant("GPT-2", "gpt2", start),
        "rms": Variant("RMSNorm", "gpt2", rms),
        "rope": Variant("RoPE", "gpt2", replace(start, positions="rope")),
        "swiglu": Variant("SwiGLU", "gpt2", replace(start, **gated)),
        "modern": Variant("all four: Llama's block", "gpt2", modern),
        "shared": Variant("4 heads share 1 key head", "modern", replace(modern, num_kv_heads=1)),
        "qknorm": Variant("QK-norm", "modern", replace(modern, qk_norm="head")),
        "window": Variant("window of 16 in layer 1 of 2", "modern", window),
        "latent": Variant("latent attention (MLA)", "modern", modern, latent),
        "delta": Variant("gated DeltaNet", "modern", modern, DeltaAttention),
        "experts": Variant("8 experts, 2 a token", "modern", experts, balance=0.01),
        "unbalanced": Variant("…without balancing", "modern", experts),
        "ahead": Variant("two tokens ahead", "modern", modern, ahead=True),
    }


def new_model(variant: Variant, seed: int) -> tuple[ModernModel, torch.nn.Module]:
    """The model, and what is trained: itself, or with a block for the second token."""
    model = ModernModel(variant.config, seed=seed, attention=variant.attention)
    return model, TwoAhead(model, seed) if variant.ahead else model


def cache_per_token(variant: Variant, tokens: int = 256) -> float:
    """Bytes that each token of a text of so many leaves behind for later ones, in 32 bits."""
    config, numbers = variant.config, 0.0
    for layer in range(config.num_layers):
        if variant.attention is None:
            window = layer_window(config, layer)
            kept = tokens if window is None else min(window, tokens)
            numbers += 2 * config.num_kv_heads * config.head_dim * kept / tokens
        else:
            part = variant.attention(config, layer)
            numbers += part.cached / (tokens if isinstance(part, DeltaAttention) else 1)
    return 4 * numbers


def loads(model: ModernModel, batches: list) -> list[list[float]]:
    """For each layer of experts, the share of the real tokens' choices that each expert got."""
    layers = [part for part in model.modules() if isinstance(part, MixtureOfExperts)]
    counts = [torch.zeros(len(part.experts)) for part in layers]
    real = torch.empty(0)

    def count(number: int, part: MixtureOfExperts, x: torch.Tensor) -> None:
        chosen, _, _ = route_tokens(part.router(x.flatten(0, -2)[real]), part.count)
        counts[number] += torch.bincount(chosen.flatten(), minlength=len(part.experts))

    hooks = [
        part.register_forward_pre_hook(lambda part, given, n=n: count(n, part, given[0]))
        for n, part in enumerate(layers)
    ]
    with torch.no_grad():
        for inputs, targets in batches:
            real = (targets != IGNORED).flatten()
            model(inputs)
    for hook in hooks:
        hook.remove()
    return [[round(share, 4) for share in (c / c.sum()).tolist()] for c in counts]


def story_batches(seed: int, total_tokens: int, tokenizer) -> StoryBatches:
    """What all variants of a seed read."""
    names = ("tokens_per_batch", "batch_growth", "embed_dim", "vocab_size")
    recipe = StoryRecipe(
        total_tokens=total_tokens, seed=100 + seed, **{name: SETTINGS[name] for name in names}
    )
    return StoryBatches(tokenizer, recipe, pool=3000)


def validation_batches(tokenizer) -> list:
    """Stories that no run learns from."""
    told = list(islice(stories(seed=0, split="validation"), SETTINGS["validation_stories"]))
    return [pad_rows(group) for group in pack_rows(story_rows(told, tokenizer), 4000)]


def one_run(variant: Variant, seed: int, batches: list, validation: list) -> dict:
    """Train once; what came out."""
    model, trained = new_model(variant, seed)
    began = time.process_time()
    equal_budget_run(trained, batches, SETTINGS["total_tokens"], variant.balance)
    entry = {"seed": seed, "seconds": round(time.process_time() - began, 2)}
    entry |= {"loss": round(evaluate(model, validation), 5), "parameters": model.num_parameters()}
    entry["cache_per_token"] = cache_per_token(variant)
    if variant.config.num_experts:
        entry["loads"] = loads(model, validation)
    return entry


def write(name: str, content: dict) -> None:
    """Save results, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    with written_whole(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def header(what: str) -> dict:
    """What every results file says about itself."""
    made = {"machine": machine_line(), "date": str(date.today())}
    return {"what": what, "settings": SETTINGS} | made


def compare(minutes: float, seeds: int) -> None:
    """Train what is missing, until the time is over."""
    path, until = RESULTS / "compare.json", time.perf_counter() + 60 * minutes
    content = header("validation loss in nats per token after training at equal budget")
    content["runs"] = {}
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if old["settings"] != SETTINGS:
            raise SystemExit(f"{path} holds runs with other settings; move it away first.")
        content["runs"] = old["runs"]
    tokenizer = story_tokenizer(SETTINGS["vocab_size"])
    validation = validation_batches(tokenizer)
    for seed in range(seeds):
        batches = None
        for name, variant in variants().items():
            runs = content["runs"].setdefault(name, [])
            if any(run["seed"] == seed for run in runs):
                continue
            if time.perf_counter() > until:
                return
            batches = batches or list(story_batches(seed, SETTINGS["total_tokens"], tokenizer))
            runs.append(one_run(variant, seed, batches, validation))
            print(name, runs[-1]["seed"], runs[-1]["loss"], runs[-1]["seconds"], flush=True)
            all_runs = [run for runs in content["runs"].values() for run in runs]
            content["seeds"] = sorted({run["seed"] for run in all_runs})
            content["processor_seconds"] = round(sum(run["seconds"] for run in all_runs), 1)
            write("compare", content)


def speed(rounds: int = 4) -> None:
    """Processor seconds of the same four training batches; all variants take turns."""
    tokenizer = story_tokenizer(SETTINGS["vocab_size"])
    batches = list(islice(story_batches(0, 1_000_000, tokenizer).chunk(9, 0.5), 4))
    tokens = sum(int((targets != IGNORED).sum()) for _, targets in batches)
    models = {name: (new_model(v, 0)[1].train(), v) for name, v in variants().items()}
    best = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for name, (model, variant) in models.items():
            began = time.process_time()
            for batch in batches:
                modern_loss(model, batch, variant.balance).backward()
                model.zero_grad()
            best[name] = min(best[name], time.process_time() - began)
    content = header("training tokens per processor second, forward and backward, best round")
    content |= {"rounds": rounds, "tokens_in_a_round": tokens}
    content["tokens_per_second"] = {name: round(tokens / s) for name, s in best.items()}
    write("speed", content)
    print(content["tokens_per_second"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("compare", "speed"))
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so many")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.name == "compare":
        compare(options.minutes, options.seeds)
    else:
        speed()


if __name__ == "__main__":
    main()
