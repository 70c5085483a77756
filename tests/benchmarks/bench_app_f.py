"""Cached generation against transformers', and against our own without a cache."""

from __future__ import annotations

from dataclasses import replace

import torch

from shared.appendices import generate_cached
from shared.previous_chapters import GPTModel, generate
from tests.benchmarks.bench_training_step import LAPTOP, medians
from tests.test_ch04_gpt_model import mapped, some_ids, transformers_gpt2

CONFIG = replace(LAPTOP, context_length=256)
PROMPT, NEW = 16, 240  # together the whole context
REPEATS = 7
THEIRS_BAR, OWN_BAR = 2.5, 5.0


def cpu_rows() -> list[dict]:
    """Both bars, in one run, on the same weights and with the same tokens."""
    theirs = transformers_gpt2(CONFIG, seed=0)
    model = GPTModel(CONFIG).eval()
    model.load_state_dict(mapped(theirs.state_dict(), CONFIG.num_layers))
    prompt = some_ids(1, PROMPT, CONFIG)
    settings = {"do_sample": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": None}
    texts: dict[str, torch.Tensor] = {}

    def theirs_write() -> None:
        mask = torch.ones_like(prompt)
        texts["theirs"] = theirs.generate(
            prompt, attention_mask=mask, max_new_tokens=NEW, **settings
        )

    def write(name: str, function) -> None:
        texts[name] = function(model, prompt, NEW, temperature=0)

    seconds = medians(
        {
            "theirs": theirs_write,
            "cached": lambda: write("cached", generate_cached),
            "uncached": lambda: write("uncached", generate),
        },
        REPEATS,
    )
    same = all(torch.equal(text, texts["cached"]) for text in texts.values())
    speed = {name: NEW / s for name, s in seconds.items()}
    what = f"{model.num_parameters():,} parameters, batch 1, {PROMPT} + {NEW} tokens, greedy"
    rows = []
    for name, other, bar in (
        ("theirs", "transformers' cached generate", THEIRS_BAR),
        ("uncached", "our own uncached", OWN_BAR),
    ):
        ratio = seconds[name] / seconds["cached"]
        rows.append(
            {
                "figure": f"cached generation over {other}, tokens/s; {what}",
                "bar": f"≥ {bar}×, same tokens",
                "measured": f"{ratio:.2f}×, {'same' if same else 'OTHER'} tokens",
                "met": same and ratio >= bar,
                "note": f"{speed['cached']:,.0f} against {speed[name]:,.0f} tokens/s, "
                f"medians of {REPEATS} in turns",
            }
        )
    return rows


def gpu_row() -> dict:
    """On a GPU, cached against uncached, for a context worth the name."""
    row = {"figure": "cached over uncached generation on a GPU, 1,024 tokens", "bar": "> 1×"}
    if not torch.cuda.is_available():
        return row | {"measured": "no GPU here", "met": None}
    config = replace(CONFIG, context_length=1024, embed_dim=512, num_heads=8, num_layers=8)
    model, prompt = GPTModel(config, seed=0).cuda().eval(), some_ids(1, PROMPT, config).cuda()
    texts: dict[str, torch.Tensor] = {}

    def write(name: str, function) -> None:
        texts[name] = function(model, prompt, 1024 - PROMPT, temperature=0)
        torch.cuda.synchronize()

    works = {"cached": generate_cached, "uncached": generate}
    seconds = medians({n: lambda n=n, f=f: write(n, f) for n, f in works.items()}, 3)
    ratio = seconds["uncached"] / seconds["cached"]
    same = torch.equal(texts["cached"], texts["uncached"])
    return row | {
        "measured": f"{ratio:.2f}×, {'same' if same else 'other'} tokens",
        "met": ratio > 1,
        "note": f"{torch.cuda.get_device_name()}, {model.num_parameters():,} parameters, float32",
    }


def rows() -> list[dict]:
    """The rows of the table."""
    return [*cpu_rows(), gpu_row()]
