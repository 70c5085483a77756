"""Appendix F: the KV cache, shared heads, whole-number weights and guessing ahead."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

import shared.previous_chapters as chapters
from shared.appendices import (
    CachedReader,
    Int8Embedding,
    Int8Linear,
    KVCache,
    PairTable,
    SharedKeysAttention,
    StaticStep,
    bare,
    cached_generation,
    cached_steps,
    common_length,
    deepened,
    generate_cached,
    place_chunks,
    place_together,
    quantise_int8,
    quantise_rows,
    settle,
    share_heads,
    shared_cache_bytes,
    speculative_generate,
    stored_bytes,
    window,
)
from shared.artifacts import ROOT
from shared.previous_chapters import (
    GPTConfig,
    GPTModel,
    generate,
    generate_stream,
    kv_cache_bytes,
    next_logits,
    sampling_probabilities,
)
from tests.test_ch04_gpt_model import dice, mapped, some_ids, stirred, transformers_gpt2

ODD = GPTConfig(vocab_size=61, context_length=23, embed_dim=24, num_heads=6, num_layers=3)
CONFIGS = [ODD, GPTConfig(97, 11, 40, 5, 2, qkv_bias=False), GPTConfig(5, 31, 6, 1, 1)]


def chances_of(model, row, **sampling):
    return sampling_probabilities(next_logits(model, [row]), **sampling)[0]


def far_from(counts: Counter, chances: dict) -> float:
    """Chi-square of counts against chances, over a degree of freedom: near 1 if they agree."""
    total = sum(counts.values())
    assert set(counts) <= {k for k, c in chances.items() if c > 0}, "what cannot be drawn"
    terms = ((counts[k] - total * c) ** 2 / (total * c) for k, c in chances.items() if c > 0)
    return sum(terms) / max(sum(c > 0 for c in chances.values()) - 1, 1)


# The cache


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_logits_do_not_depend_on_the_chunks(config, seed):
    """Random cuts, unequal in each row, with tokens taken back and contexts that overflow."""
    model, rng = stirred(config, seed=seed), dice(seed)
    texts = some_ids(4, 2 * config.context_length, config, seed=seed).tolist()
    for overflow in ("exact", "half"):
        reader, ends = CachedReader(model, 4, overflow), [0] * 4
        for _ in range(9):
            moves = torch.randint(-4, config.context_length // 2, (4,), generator=rng).tolist()
            ends = [
                min(max(e + m, 1), 2 * config.context_length)
                for e, m in zip(ends, moves, strict=True)
            ]
            rows = [text[:end] for text, end in zip(texts, ends, strict=True)]
            wanted = [window(row, config.context_length, overflow) for row in rows]
            wanted = next_logits(model, wanted)
            given = reader.logits(rows)[:, 0]
            torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)
            assert torch.equal(given.argmax(-1), wanted.argmax(-1))


def test_the_last_logits_are_those_after_each_of_the_last_tokens():
    model, rows = stirred(ODD), some_ids(2, 9, ODD).tolist()
    rows[1] = rows[1][:5]
    reader = CachedReader(model, 2)
    reader.logits(rows)
    given = reader.logits(rows, last=3)
    assert given.shape == (2, 3, 61)
    for back in range(3):
        cut = [row[: len(row) - 2 + back] for row in rows]
        torch.testing.assert_close(given[:, back], next_logits(model, cut), atol=1e-4, rtol=1e-4)


def test_only_what_is_new_is_read():
    model, read = stirred(ODD), []
    reader = CachedReader(model)
    plain = reader.read
    reader.read = lambda chunks, starts: (
        read.append((len(chunks[0]), starts[0])) or plain(chunks, starts)
    )
    row = some_ids(1, 12, ODD)[0].tolist()
    for given in (row[:7], row[:8], row, row, row[:9], [*row[:4], (row[4] + 1) % 61]):
        reader.logits([given])
    assert read == [(7, 0), (1, 7), (4, 8), (1, 11), (1, 8), (1, 4)]


def test_the_caches_memory_is_the_bill_and_never_grows():
    model = stirred(ODD)
    for batch in (1, 3):
        reader = CachedReader(model, batch)
        assert reader.cache.num_bytes == kv_cache_bytes(ODD, batch)
        address = reader.cache.store.data_ptr()
        for tokens in (1, 5, 23, 40):
            reader.logits(some_ids(batch, tokens, ODD).tolist())
        assert reader.cache.store.data_ptr() == address


def test_filling_writes_nothing():
    """A short row at the end of its room stands beside one that gets a long chunk."""
    model = stirred(ODD)
    rows = some_ids(2, 23, ODD).tolist()
    reader = CachedReader(model, 2)
    reader.logits([rows[0][:22], rows[1][:2]])
    before = reader.cache.store[:, 0, :, :22].clone()
    torch.testing.assert_close(
        reader.logits(rows)[:, 0], next_logits(model, rows), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(reader.cache.store[:, 0, :, :22], before)


def test_masks_by_hand():
    place = place_together(3, 2, torch.device("cpu"))
    assert place.mask.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert place_together(3, 1, torch.device("cpu")).mask is None
    place, ids = place_chunks([[7, 8], [9]], [1, 3], torch.zeros(2, 2, 6, 1))
    assert ids.tolist() == [[7, 8], [9, 0]] and place.seen == 4
    assert place.mask[:, 0].int().tolist() == [[[1, 1, 0, 0], [1, 1, 1, 0]], [[1, 1, 1, 1]] * 2]
    assert [x.tolist() for x in (place.write[0], place.write[2])] == [[0, 0, 1], [1, 2, 3]]


def test_windows_and_common_beginnings():
    assert window([1, 2, 3], 4) == [1, 2, 3] == window([1, 2, 3], 4, "half")
    row = list(range(9))
    assert window(row, 4) == row[5:] and window(row, 4, "half") == row[6:]
    assert window(row[:8], 4, "half") == row[4:8]
    assert [len(window(list(range(n)), 5, "half")) for n in range(1, 10)] == [
        1, 2, 3, 4, 5, 4, 5, 4, 5,
    ]  # fmt: skip
    assert common_length([], [1]) == 0 and common_length([1, 2], [1, 2, 3]) == 2
    assert common_length([1, 2, 3], [1, 9, 3]) == 1


def test_layers_that_are_not_plain_are_called_as_they_are():
    model = stirred(ODD)
    calls = []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            calls.append(x.shape)
            return super().forward(x) + 1

    layer = Watched(24, 24)
    model.blocks[1].attention.out = layer
    assert bare(layer) is layer
    rows = some_ids(2, 7, ODD).tolist()
    given = CachedReader(model, 2).logits(rows)[:, 0]
    assert calls
    torch.testing.assert_close(given, next_logits(model, rows), atol=1e-4, rtol=1e-4)


def test_dropout_and_training_mode_play_no_part():
    model = GPTModel(GPTConfig(61, 23, 24, 6, 3, dropout=0.5), seed=0).train()
    rows = some_ids(2, 7, ODD).tolist()
    given = CachedReader(model, 2).logits(rows)[:, 0]
    torch.testing.assert_close(given, next_logits(model, rows), atol=1e-5, rtol=1e-4)
    assert model.training


# generate


def test_it_has_the_arguments_of_generate():
    ours, theirs = (inspect.signature(f).parameters for f in (generate_cached, generate))
    named = {"temperature", "top_k", "top_p", "generator"}  # go through to the sampling
    assert set(theirs) - named <= set(ours) and set(ours) - set(theirs) <= {"overflow", "sampling"}
    assert list(ours)[:3] == list(theirs)[:3]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0}, {}, {"temperature": 1.4, "top_k": 7}, {"top_p": 0.8}],
    ids=str,
)
def test_the_same_tokens_as_generate(config, sampling):
    model = stirred(config, seed=2)
    prompts = [row[: 1 + 2 * i] for i, row in enumerate(some_ids(5, 11, config, seed=4).tolist())]
    for eos_id in (None, 3):
        for new in (0, 1, 9, 2 * config.context_length):  # past the context, too
            texts = [
                write(model, prompts, new, eos_id=eos_id, generator=dice(8), **sampling)
                for write in (generate, generate_cached)
            ]
            assert texts[0] == texts[1]


def test_tensors_and_empty_batches_as_generate():
    model, pair = stirred(ODD, seed=5), some_ids(2, 4, ODD)
    eos = generate(model, pair, 6, temperature=0)[0, 6].item()
    for kind in (torch.int64, torch.int32):
        texts = [
            write(model, pair.to(kind), 8, temperature=0, eos_id=eos)
            for write in (generate, generate_cached)
        ]
        assert torch.equal(*texts) and texts[1].dtype == kind
    assert generate_cached(model, [], 4) == []
    assert generate_cached(model, torch.zeros(0, 3, dtype=torch.long), 4).shape == (0, 3)


def test_greedy_text_equals_transformers_cached():
    theirs = transformers_gpt2(ODD, seed=4)
    model = GPTModel(ODD)
    model.load_state_dict(mapped(theirs.state_dict(), ODD.num_layers))
    prompt = some_ids(3, 4, ODD, seed=2)
    settings = dict(do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=True)
    mask = torch.ones_like(prompt)
    wanted = theirs.generate(prompt, attention_mask=mask, max_new_tokens=19, **settings)
    assert generate_cached(model, prompt, 19, temperature=0).tolist() == wanted.tolist()


def test_half_a_window_reads_far_fewer_tokens():
    model = stirred(ODD)
    read = {}
    for overflow in ("exact", "half"):
        row, reader = some_ids(1, 23, ODD)[0].tolist(), CachedReader(model, 1, overflow)
        plain, sizes = reader.read, []
        reader.read = lambda c, s, plain=plain, sizes=sizes: sizes.append(len(c[0])) or plain(c, s)
        for token in range(40):
            reader.logits([row])
            row.append(token)
        read[overflow] = sum(sizes)
    assert read["exact"] == 40 * 23 and read["half"] < 140


def test_the_chapters_use_it_inside_the_with_block(monkeypatch):
    model, prompts = stirred(ODD), some_ids(2, 3, ODD).tolist()
    wanted = generate(model, prompts, 9, temperature=0)
    stream = list(generate_stream(model, prompts[0], 9, temperature=0))
    plain = chapters.generation_steps
    with cached_generation():
        assert chapters.generation_steps is cached_steps
        monkeypatch.setattr(chapters, "next_logits", None)  # what the uncached way would call
        assert generate(model, prompts, 9, temperature=0) == wanted
        assert list(generate_stream(model, prompts[0], 9, temperature=0)) == stream
    assert chapters.generation_steps is plain
    with pytest.raises(RuntimeError), cached_generation():
        raise RuntimeError
    assert chapters.generation_steps is plain


def test_streaming_leaves_gradients_on():
    steps = generate_stream(stirred(ODD), [1, 2], 3)
    with cached_generation():
        next(steps)
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_errors_say_what_to_do():
    model = stirred(ODD)
    with pytest.raises(TypeError, match="expected a GPTModel"):
        generate_cached(torch.nn.Linear(2, 2), [[1]], 1)
    with pytest.raises(ValueError, match="batch_size=0"):
        KVCache(model, 0)
    with pytest.raises(ValueError, match='expected "exact"'):
        generate_cached(model, [[1]], 1, overflow="ring")
    with pytest.raises(ValueError, match="2 rows, but the cache was made for 1"):
        CachedReader(model).logits([[1], [2]])
    with pytest.raises(ValueError, match="shortest row has 2"):
        CachedReader(model).logits([[1, 2]], last=3)
    with pytest.raises(ValueError, match="temperature=-1"):
        generate_cached(model, [[1]], 1, temperature=-1)
    with pytest.raises(ValueError, match="vocab_size=61"):
        generate_cached(model, [[61]], 1)
    with pytest.raises(ValueError, match="prompt 0 has 24 tokens"):
        generate_cached(model, [[1] * 24], 1)


# Heads that share keys


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_shared_heads_and_their_cache(kv_heads):
    model = stirred(ODD)
    shared = share_heads(model, kv_heads)
    cache = KVCache(shared, 2)
    assert cache.num_bytes == shared_cache_bytes(ODD, kv_heads, 2)
    assert cache.num_bytes * 6 == kv_cache_bytes(ODD, 2) * kv_heads
    prompts = [row[: 2 + i] for i, row in enumerate(some_ids(3, 9, ODD).tolist())]
    assert generate(shared, prompts, 30, temperature=0) == generate_cached(
        shared, prompts, 30, temperature=0
    )


def test_sharing_among_all_heads_changes_nothing_and_none_touches_the_model():
    model = stirred(ODD)
    before, rows = copy.deepcopy(model.state_dict()), some_ids(2, 9, ODD).tolist()
    torch.testing.assert_close(
        next_logits(share_heads(model, 6), rows), next_logits(model, rows), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(next_logits(share_heads(model, 2), rows), next_logits(model, rows))
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize("bias", [True, False])
def test_shared_attention_is_attention_with_repeated_means(bias):
    config = GPTConfig(61, 23, 24, 6, 1, qkv_bias=bias)
    model = stirred(config)
    x = torch.randn(2, 7, 24, generator=dice(1))
    q, k, v = model.blocks[0].attention.queries_keys_values(x)
    k, v = (t.unflatten(1, (2, 3)).mean(2, keepdim=True).expand(-1, -1, 3, -1, -1) for t in (k, v))
    mixed = F.scaled_dot_product_attention(q, k.flatten(1, 2), v.flatten(1, 2), is_causal=True)
    wanted = model.blocks[0].attention.out(mixed.transpose(1, 2).flatten(2))
    given = share_heads(model, 2).blocks[0].attention(x)
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)


def test_heads_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match=r"num_kv_heads=4 with num_heads=6.*\[1, 2, 3, 6\]"):
        share_heads(stirred(ODD), 4)
    with pytest.raises(ValueError, match="num_kv_heads=0"):
        SharedKeysAttention(24, 6, 0, True)


# Whole numbers


@pytest.mark.parametrize("bits", [8, 5, 2])
def test_rounding_is_off_by_half_a_step_at_most(bits):
    weight = torch.randn(7, 13, generator=dice(0)) * torch.logspace(-3, 2, 7)[:, None]
    weight[3] = 0
    numbers, scale = quantise_rows(weight, bits)
    assert numbers.dtype == torch.int8 and scale.shape == (7, 1)
    assert int(numbers.abs().max()) == 2 ** (bits - 1) - 1
    assert bool(((numbers * scale - weight).abs() <= scale / 2 * 1.001).all())
    assert numbers[3].eq(0).all()


def test_quantised_layers_compute_with_the_rounded_weights():
    linear, x = torch.nn.Linear(5, 3), torch.randn(2, 4, 5, generator=dice(2))
    numbers, scale = quantise_rows(linear.weight.detach())
    wanted = F.linear(x, numbers * scale, linear.bias)
    torch.testing.assert_close(Int8Linear(linear)(x), wanted)
    embedding = torch.nn.Embedding(9, 5)
    small, ids = Int8Embedding(embedding), torch.tensor([[1, 8, 0]])
    torch.testing.assert_close(small(ids), F.embedding(ids, small.weight))
    torch.testing.assert_close(small.weight, embedding.weight.detach(), atol=0.02, rtol=0)


def test_a_quantised_model_is_small_near_and_cached_like_any_other():
    config = GPTConfig(203, 23, 48, 6, 3)
    model = stirred(config, spread=0.05)
    before, small = copy.deepcopy(model.state_dict()), quantise_int8(model)
    assert not [m for m in small.modules() if type(m) is torch.nn.Linear]
    assert stored_bytes(small) < 0.35 * stored_bytes(model)
    assert stored_bytes(model) == 4 * model.num_parameters()
    rows = some_ids(3, 9, config).tolist()
    off = (next_logits(small, rows) - next_logits(model, rows)).abs().max()
    coarse = (next_logits(quantise_int8(model, 3), rows) - next_logits(model, rows)).abs().max()
    assert 0 < off < 0.05 < coarse
    assert generate(small, rows, 20, temperature=0) == generate_cached(
        small, rows, 20, temperature=0
    )
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    twin = quantise_int8(GPTModel(config, seed=9))
    twin.load_state_dict(small.state_dict())
    assert torch.equal(next_logits(twin, rows), next_logits(small, rows))


def test_bits_out_of_range():
    with pytest.raises(ValueError, match="bits=9"):
        quantise_int8(stirred(ODD), 9)


# Guessing ahead


def test_what_is_settled_is_distributed_as_p():
    p = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    for q in (torch.tensor([0.1, 0.2, 0.2, 0.1, 0.4]), torch.tensor([0, 0, 0, 0, 1.0]), p):
        rng, counts = dice(3), Counter()
        for token in torch.multinomial(q, 8000, replacement=True, generator=rng).tolist():
            kept, stands = settle(token, p, q, rng)
            assert not kept or stands == token
            counts[stands] += 1
        assert far_from(counts, dict(enumerate(p.tolist()))) < 5


@pytest.mark.parametrize("num_draft", [1, 3])
@pytest.mark.parametrize("sampling", [{"temperature": 1.3, "top_k": 3}, {"top_p": 0.7}], ids=str)
def test_speculation_leaves_the_distribution_of_texts_unchanged(num_draft, sampling):
    """Texts of two tokens, by speculation with a draft of quite other opinions."""
    config = GPTConfig(5, 31, 6, 1, 1)
    model, draft = stirred(config, seed=1, spread=0.6), stirred(config, seed=8, spread=0.6)
    row, rng, chances = [1, 4, 2], dice(6), {}
    for a, first in enumerate(chances_of(model, row, **sampling).tolist()):
        for b, then in enumerate(chances_of(model, [*row, a], **sampling).tolist()):
            chances[a, b] = first * then
    counts, refused = Counter(), 0
    for _ in range(2500):
        run = speculative_generate(
            model, draft, row, 2, num_draft=num_draft, generator=rng, **sampling
        )
        counts[tuple(run.row[3:])] += 1
        refused += run.proposed - run.kept
    assert refused > 200, "the draft agrees too much for this to test anything"
    assert far_from(counts, chances) < 4


def test_greedy_speculation_is_greedy_text():
    model, draft = stirred(ODD, seed=1), stirred(ODD, seed=2)
    (row,) = some_ids(1, 4, ODD, seed=3).tolist()
    for guess in (model, draft, lambda ids: F.one_hot(torch.tensor(ids[-1]), 61).float()):
        for new, num_draft in ((0, 2), (1, 4), (15, 4), (19, 3), (40, 4)):  # 40: past the context
            run = speculative_generate(model, guess, row, new, num_draft=num_draft, temperature=0)
            assert run.row == generate(model, [row], new, temperature=0)[0]
            assert 0 <= run.kept <= run.proposed


def test_a_perfect_draft_saves_passes_and_the_end_mark_stops_it():
    model = stirred(ODD, seed=1)
    (row,) = some_ids(1, 4, ODD, seed=3).tolist()
    run = speculative_generate(model, model, row, 15, num_draft=4, temperature=0)
    assert (run.passes, run.kept, run.proposed) == (3, 12, 12)
    eos = run.row[10]
    wanted = generate(model, [row], 15, temperature=0, eos_id=eos)[0]
    assert speculative_generate(model, model, row, 15, temperature=0, eos_id=eos).row == wanted


def test_speculation_is_reproducible_and_refuses_nonsense():
    model, row = stirred(ODD, seed=1), [1, 2, 3]
    runs = [speculative_generate(model, stirred(ODD), row, 9, generator=dice(1)) for _ in range(2)]
    assert runs[0] == runs[1]
    with pytest.raises(ValueError, match="num_draft=0"):
        speculative_generate(model, model, row, 3, num_draft=0)
    with pytest.raises(ValueError, match="same tokenizer"):
        speculative_generate(model, stirred(CONFIGS[1]), row, 3)
    with pytest.raises(ValueError, match="top_p=0"):
        speculative_generate(model, model, row, 3, top_p=0)
    with pytest.raises(ValueError, match="expected a list of one or more"):
        speculative_generate(model, model, [], 3)


def test_a_deepened_model_says_the_same():
    model = stirred(ODD, seed=1)
    deep, ids = deepened(model, 5), some_ids(2, 9, ODD)
    assert len(deep.blocks) == 5 and deep.num_parameters() > model.num_parameters()
    torch.testing.assert_close(deep(ids), model(ids), atol=1e-4, rtol=1e-4)


def test_a_pair_table_counts_what_followed():
    table = PairTable([[1, 2, 3], [1, 2, 3], [1, 2, 4], [5, 2, 4]], vocab_size=7)
    assert table([9, 1, 2]).argmax() == 3 and table([5, 2]).argmax() == 4
    assert float(table([1, 2]).softmax(-1)[4]) == pytest.approx(1 / 3, abs=1e-3)
    assert table([6, 1]).argmax() == 2, "an unknown pair: the last token alone has to do"
    assert table([6, 6]).shape == (7,)


def test_the_kept_race_adds_up():
    """What the notebook shows of it is computed from the seconds beside it."""
    folder = ROOT / "appendix/f_fast_inference"
    spec = importlib.util.spec_from_file_location("race", folder / "experiments.py")
    race = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(race)
    kept = json.loads((folder / "results/drafts.json").read_text(encoding="utf-8"))
    assert len(kept["runs"]) == kept["settings"]["prompts"] == race.PROMPTS
    assert race.summary(kept["runs"]) == kept["models"]
    for ways in kept["models"].values():
        assert ways["no draft"] == {"times": 1.0, "low": 1.0, "high": 1.0}
        assert all(way["low"] <= way["times"] <= way["high"] for way in ways.values())


# The static step


@pytest.mark.parametrize("kv_heads", [6, 2])
def test_the_static_step_at_unequal_places(kv_heads):
    model = share_heads(stirred(ODD), kv_heads)
    rows = [row[: 3 + 5 * i] for i, row in enumerate(some_ids(3, 20, ODD).tolist())]
    reader = CachedReader(model, 3)
    reader.logits(rows)
    step = StaticStep(reader)
    for token in (7, 8, 9):
        rows = [[*row, token + i] for i, row in enumerate(rows)]
        last = torch.tensor([row[-1] for row in rows])
        given = step(last, torch.tensor([len(row) - 1 for row in rows]))
        torch.testing.assert_close(given, next_logits(model, rows), atol=1e-4, rtol=1e-4)


def test_it_runs_on_a_gpu_as_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model = stirred(ODD).cuda()
    prompts = [row[: 2 + i] for i, row in enumerate(some_ids(3, 9, ODD).tolist())]
    for made in (model, share_heads(model, 2), quantise_int8(model)):
        assert generate(made, prompts, 40, temperature=0) == generate_cached(
            made, prompts, 40, temperature=0
        )
    run = speculative_generate(model, model, prompts[0], 15, temperature=0)
    assert run.row == generate(model, prompts[:1], 15, temperature=0)[0]


WITHOUT_A_COMPILER = """
import json, os, sys, time
from collections.abc import Callable
import shutil
import torch
from shared.appendices import CachedReader, StaticStep
from shared.artifacts import ROOT, artifacts_folder
from shared.previous_chapters import GPTConfig, GPTModel

path = ROOT / "appendix/f_fast_inference/f_fast_inference.ipynb"
cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
sources = ("".join(cell["source"]) for cell in cells)
(source,) = [text for text in sources if text.startswith("def try_to_compile")]
device = torch.device("cpu")
exec(source)
step = StaticStep(CachedReader(GPTModel(GPTConfig(7, 5, 4, 2, 1), seed=0)))
for folder in (os.environ["PATH"], sys.argv[1]):  # a wrong compiler, then none at all
    os.environ["PATH"] = folder
    compiled, said = try_to_compile(step)
    assert compiled is None, "it says that it compiled"
    print(said)
"""


def test_without_a_compiler_the_notebook_says_so_and_goes_on(tmp_path):
    """CXX names no compiler, and what was compiled before is not there either."""
    hidden = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kept")}
    hidden |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER, str(tmp_path)],
        env=os.environ | hidden,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == "", "the notebook would show this in red"
    wrong, none = run.stdout.splitlines()
    assert "Compiling did not work here" in wrong and "all else works" in wrong
    assert "no C++ compiler" in none and "all else works" in none
