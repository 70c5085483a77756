"""Appendix G: fifty clients at once on an untrained model of the assistant's size."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import torch

from shared.appendices import Service
from shared.previous_chapters import CHAT_TOKENS, END_OF_TEXT, BPETokenizer, GPTConfig, GPTModel

CLIENTS, TOKENS = 50, 24
CONFIG = GPTConfig(
    vocab_size=2326, context_length=256, embed_dim=128, num_heads=4, num_layers=2, dropout=0.0
)


def crowd(service: Service, clients: int) -> tuple[list[float], list[float], int]:
    """Seconds to the first and to the last piece of each, and how many tokens came."""
    began, done = time.perf_counter(), threading.Semaphore(0)
    first, last, tokens = [0.0] * clients, [0.0] * clients, [0] * clients

    def deliver(number):
        def take(piece):
            now = time.perf_counter() - began
            first[number] = first[number] or now
            last[number] = now
            tokens[number] += bool(piece.chances)
            if piece.ended:
                done.release()

        return take

    for number in range(clients):
        said = [{"role": "user", "content": "x" * 30}]
        style = {"temperature": 1.0, "seed": number, "limit": TOKENS, "alternatives": 0}
        service.ask(said, deliver(number), **style)
    for _ in range(clients):
        done.acquire()
    return first, last, sum(tokens)


def rows() -> list[dict]:
    """Time to first token, and tokens a second, of a crowd against one at a time."""
    tokenizer = BPETokenizer.train("a", 261, [END_OF_TEXT, *CHAT_TOKENS])
    model = GPTModel(CONFIG, seed=0)
    # Only ids that the small tokenizer can say, and no mark: all answers have the same length.
    model.output_head.register_forward_hook(lambda m, i, out: out.index_fill(-1, MARKS, -1e9))
    with closing(Service(model, tokenizer)) as service:
        crowd(service, 4)  # to warm up
        first, last, tokens = crowd(service, CLIENTS)
    with closing(Service(model, tokenizer, seats=1)) as service:
        one = [crowd(service, 1) for _ in range(8)]
    alone = sum(t for _, _, t in one) / sum(ends[0] for _, ends, _ in one)
    ratio = tokens / max(last) / alone
    share = max(first) / max(last)
    return [
        {
            "figure": f"appendix G: {CLIENTS} at once, all tokens arrive",
            "bar": f"{CLIENTS * TOKENS}",
            "measured": f"{tokens}",
            "met": tokens == CLIENTS * TOKENS,
        },
        {
            "figure": f"appendix G: the last of {CLIENTS} to see a first token, share of all time",
            "bar": "≤ 0.25",
            "measured": f"{share:.2f}",
            "met": share <= 0.25,
            "note": f"{max(first):.2f} s of {max(last):.2f} s",
        },
        {
            "figure": "appendix G: tokens per second, 16 seats against one user alone",
            "bar": "≥ 1",
            "measured": f"{ratio:.1f}×",
            "met": ratio >= 1,
            "note": f"alone {alone:.0f} tokens/s; whole rows are read anew, without a cache",
        },
    ]


MARKS = torch.arange(256, CONFIG.vocab_size)
