"""Appendix I's long comparison: every change to GPT-2 at equal budget, several seeds each.

    python appendix/i_modern_architectures/experiments.py compare [--minutes 4] [--seeds 3]
    python appendix/i_modern_architectures/experiments.py longer [--minutes 4] [--seeds 3]
    python appendix/i_modern_architectures/experiments.py speed

`compare` trains what is still missing, one run after the other, seed by seed, so it can be stopped
at any time and goes on where it was. All variants of a seed read the same stories in the same
order. `longer` trains on short pieces and asks about whole stories, with every scaling of RoPE.
`speed` lets all variants take turns on the same batches. Each writes results/NAME.json. Times are
of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F

import shared.stories
from shared.appendices import (
    DeltaAttention,
    LatentAttention,
    MixtureOfExperts,
    ModernConfig,
    ModernModel,
    Rope,
    TwoAhead,
    equal_budget_run,
    layer_window,
    modern_loss,
    route_tokens,
)
from shared.experiments import keep_runs, source_hash, write_results
from shared.machine import keep_freed_memory
from shared.previous_chapters import (
    IGNORED,
    Batch,
    BPETokenizer,
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
LONGER = SETTINGS | {
    "total_tokens": 160_000,
    "trained_length": 32,  # tokens of a piece
    "factor": 4,  # the texts of the exam are so many times as long
    "texts": 300,
    "more_tokens": 12_000,  # of whole stories, in the gentle training that follows
    "more_rate": 1e-3,
    "bucket": 8,  # places whose losses are averaged
}
HELD = {"settings": SETTINGS, "data": source_hash(shared.stories)}


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a model, and what it is compared with."""

    what: str  # for the reader
    against: str  # name of the variant that it differs from in one thing
    config: ModernConfig
    attention: Callable | None = None  # instead of ModernAttention
    ahead: bool = False  # train with a second token to predict
    balance: float = 0.0  # weight of the load-balancing loss
    quiet: float | None = None  # first weight of the norms after a part, instead of 1


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
    after, sandwich = (replace(modern, norm_place=place) for place in ("post", "sandwich"))
    olmo = replace(after, qk_norm="all")
    gemma = replace(sandwich, qk_norm="head", embed_scale=True)
    window = replace(modern, window=16, global_layers=(1,))
    return {
        "gpt2": Variant("GPT-2", "gpt2", start),
        "rms": Variant("RMSNorm", "gpt2", rms),
        "rope": Variant("RoPE", "gpt2", replace(start, positions="rope")),
        "swiglu": Variant("SwiGLU", "gpt2", replace(start, **gated)),
        "modern": Variant("all four: Llama's block", "gpt2", modern),
        "shared": Variant("4 heads share 1 key head", "modern", replace(modern, num_kv_heads=1)),
        "qknorm": Variant("QK-norm", "modern", replace(modern, qk_norm="head")),
        "after": Variant("norms after", "modern", after),
        "after_quiet": Variant("after, a quiet start", "modern", after, quiet=0.1),
        "sandwich": Variant("norms on both sides", "modern", sandwich),
        "sandwich_quiet": Variant("both sides, a quiet start", "modern", sandwich, quiet=0.1),
        "olmo": Variant("norms after: OLMo 2's block", "qknorm", olmo),
        "gemma": Variant("both sides, loud embedding", "qknorm", gemma),
        "window": Variant("window of 16 in layer 1 of 2", "modern", window),
        "latent": Variant("latent attention (MLA)", "modern", modern, latent),
        "delta": Variant("gated DeltaNet", "modern", modern, DeltaAttention),
        "experts": Variant("8 experts, 2 a token", "modern", experts, balance=0.01),
        "unbalanced": Variant("8 experts, unbalanced", "modern", experts),
        "ahead": Variant("two tokens ahead", "modern", modern, ahead=True),
    }


def new_model(variant: Variant, seed: int) -> tuple[ModernModel, torch.nn.Module]:
    """The model, and what is trained: itself, or with a block for the second token."""
    model = ModernModel(variant.config, seed=seed, attention=variant.attention)
    if variant.quiet is not None:
        quieten(model, variant.quiet)
    return model, TwoAhead(model, seed) if variant.ahead else model


def quieten(model: ModernModel, weight: float) -> None:
    """Let the norms after each part begin with this weight."""
    for block in model.blocks:
        for norm in (block.after1, block.after2):
            torch.nn.init.constant_(norm.weight, weight)


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
    entry = {"seconds": round(time.process_time() - began, 2)}
    entry |= {"loss": round(evaluate(model, validation), 5), "parameters": model.num_parameters()}
    entry["cache_per_token"] = cache_per_token(variant)
    if variant.config.num_experts:
        entry["loads"] = loads(model, validation)
    return entry


@cache
def tokenizer() -> BPETokenizer:
    """Chapter 5's, at this comparison's size."""
    return story_tokenizer(SETTINGS["vocab_size"])


@lru_cache(maxsize=1)
def read_by_all(seed: int) -> list:
    """What all variants of a seed learn from."""
    return list(story_batches(seed, SETTINGS["total_tokens"], tokenizer()))


def compare(minutes: float, seeds: int) -> None:
    """Train what is missing, until the time is over."""
    validation = validation_batches(tokenizer())

    def run(variant: str, seed: int) -> dict:
        return one_run(variants()[variant], seed, read_by_all(seed), validation)

    cases = [{"variant": name, "seed": seed} for seed in range(seeds) for name in variants()]
    what = "validation loss in nats per token after training at equal budget"
    keep_runs(RESULTS / "compare.json", what, cases, run, **HELD, minutes=minutes)


def pieces(batch: Batch, width: int) -> Batch:
    """A batch of texts cut into pieces of so many tokens, each a text of its own."""
    inputs, targets = (
        torch.cat(F.pad(ids, (0, -ids.shape[1] % width), value=fill).split(width, dim=1))
        for ids, fill in zip(batch, (0, IGNORED), strict=True)
    )
    asked = (targets != IGNORED).any(dim=1)
    return inputs[asked], targets[asked]


@lru_cache(maxsize=1)
def short_reader(seed: int) -> ModernModel:
    """A model in Llama's configuration that has read nothing but short pieces."""
    model, total = ModernModel(variants()["modern"].config, seed=seed), LONGER["total_tokens"]
    batches = (pieces(b, LONGER["trained_length"]) for b in story_batches(seed, total, tokenizer()))
    equal_budget_run(model, batches, total)
    return model


@cache
def long_texts() -> torch.Tensor:
    """Beginnings of stories, `factor` times as long as the pieces, and one token more."""
    width = LONGER["factor"] * LONGER["trained_length"] + 1
    told = stories(seed=0, split="validation")
    rows = (story_rows([story], tokenizer())[0] for story in told)
    return torch.tensor(
        [r[:width] for r in islice((r for r in rows if len(r) >= width), LONGER["texts"])]
    )


@torch.no_grad()
def loss_by_place(model: ModernModel) -> list[float]:
    """The mean loss of `long_texts` in each bucket of places."""
    bills = []
    for texts in long_texts().split(50):
        logits = model(texts[:, :-1]).mT  # (texts, vocab_size, places)
        bills.append(F.cross_entropy(logits, texts[:, 1:], reduction="none"))
    means = torch.cat(bills).mean(dim=0).unflatten(0, (-1, LONGER["bucket"])).mean(dim=1)
    return [round(mean, 4) for mean in means.tolist()]


def scalings() -> dict[str, dict]:
    """Each way to read longer texts, as what it changes in a configuration."""
    more = {"factor": float(LONGER["factor"]), "trained_length": LONGER["trained_length"]}
    return {
        "none": {},
        "window": {"window": LONGER["trained_length"]},
        "linear": {"rope": Rope(scaling="linear", **more)},
        "llama3": {"rope": Rope(scaling="llama3", **more)},
        "yarn": {"rope": Rope(scaling="yarn", high=32.0, **more)},
    }


def one_scaling(scaling: str, seed: int) -> dict:
    """The loss by place of a model that read short pieces, and after some whole stories more."""
    trained = short_reader(seed)
    model = ModernModel(replace(trained.config, **scalings()[scaling]))
    model.load_state_dict(trained.state_dict())
    entry = {"before": loss_by_place(model.eval())}
    train_gently(model, story_batches(seed, 1_000_000, tokenizer()).chunk(9, 0.5))
    return entry | {"after": loss_by_place(model.eval())}


def train_gently(model: ModernModel, batches: Iterable[Batch]) -> None:
    """A little more training that does not undo the first: at a small, constant rate."""
    optimizer, done = torch.optim.AdamW(model.parameters(), LONGER["more_rate"]), 0
    model.train()
    for batch in batches:
        modern_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += int((batch[1] != IGNORED).sum())
        if done >= LONGER["more_tokens"]:
            break


def longer(minutes: float, seeds: int) -> None:
    """Every scaling, until the time is over."""
    cases = [{"scaling": name, "seed": seed} for seed in range(seeds) for name in scalings()]
    what = "loss by place, past the trained length, before and after some training on whole stories"
    held = HELD | {"settings": LONGER}
    keep_runs(RESULTS / "longer.json", what, cases, one_scaling, **held, minutes=minutes)


def speed(rounds: int = 6) -> None:
    """Processor seconds of the same four training batches; all variants take turns."""
    batches = list(islice(story_batches(0, 1_000_000, tokenizer()).chunk(9, 0.5), 4))
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
    what = "training tokens per processor second, forward and backward, best round"
    content = {"what": what, "settings": SETTINGS, "rounds": rounds, "tokens_in_a_round": tokens}
    content["tokens_per_second"] = {name: round(tokens / s) for name, s in best.items()}
    write_results(RESULTS / "speed.json", content)
    print(content["tokens_per_second"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("compare", "longer", "speed"))
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so many")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.name == "speed":
        speed()
    else:
        {"compare": compare, "longer": longer}[options.name](options.minutes, options.seeds)


if __name__ == "__main__":
    main()
