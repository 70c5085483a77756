"""Appendix I: today's parts, five families against transformers, and the loader."""

from __future__ import annotations

import copy
import http.server
import json
import math
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from shared.appendices import (
    DeltaAttention,
    GatedFeedForward,
    LatentAttention,
    LayerMemory,
    MixtureOfExperts,
    ModelMemory,
    ModernAttention,
    ModernConfig,
    ModernModel,
    RMSNorm,
    Rope,
    TwoAhead,
    balance_loss,
    beside_places,
    continue_modern,
    delta_chunks,
    delta_steps,
    equal_budget_run,
    load_modern,
    loading_memory,
    model_balance,
    modern_config,
    modern_loss,
    published_name,
    read_one_rope,
    rope_speeds,
    route_tokens,
    sliding_window_mask,
    turn_angles,
    turn_pairs,
)
from shared.download import DownloadError
from shared.previous_chapters import IGNORED, generate

SIZES = {"vocab_size": 101, "context_length": 64, "embed_dim": 36, "num_layers": 3}
SIZES |= {"num_heads": 6, "num_kv_heads": 2, "head_dim": 10, "hidden_dim": 52}
SMALL = ModernConfig(**SIZES)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(101, shape, generator=dice(seed))


def stirred(model: nn.Module, seed: int = 7) -> nn.Module:
    """All weights at random, norms' too, so that nothing is by chance a 0 or a 1."""
    rng = dice(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * (0.15 if p.dim() > 1 else 0.3))
            p.add_(1.0 if p.dim() == 1 else 0.0)
    return model.eval()


# --- The parts


def test_rms_norm_by_hand_and_by_torch():
    given = RMSNorm(2, eps=0.0)(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(given, torch.tensor([3.0, 4.0]) / 12.5**0.5)
    norm, x = stirred(RMSNorm(7, 1e-3)), torch.randn(2, 5, 7, generator=dice())
    theirs = nn.RMSNorm(7, 1e-3)
    theirs.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), theirs(x))
    offset = RMSNorm(7, 1e-3, offset=1.0)
    assert torch.equal(offset.weight, torch.zeros(7))
    offset.weight.data = norm.weight.data - 1
    torch.testing.assert_close(offset(x), norm(x))
    assert RMSNorm(4)(torch.ones(4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_speeds_by_hand():
    assert rope_speeds(4, Rope(100.0)).tolist() == pytest.approx([1.0, 0.1])
    assert rope_speeds(4, Rope(100.0, "linear", 4.0)).tolist() == pytest.approx([0.25, 0.025])
    # 2 pairs, texts of 2π · 10: the pairs turn 10 times and once; low 1, high 4
    llama = Rope(100.0, "llama3", 8.0, 1.0, 4.0, trained_length=round(2 * math.pi * 1000))
    speeds = rope_speeds(6, replace(llama, base=1e9)).tolist()  # 1, 0.001, 0.000001
    assert speeds == pytest.approx([1.0, 1e-3 / 8, 1e-6 / 8], rel=1e-3)
    between = rope_speeds(4, replace(llama, base=(1 / 0.0025) ** 2)).tolist()[1]  # 2.5 turns
    assert between == pytest.approx(0.0025 * (0.5 + 0.5 / 8), rel=1e-3)
    with pytest.raises(ValueError, match="scaling='ntk'.*expected 'none' or one of linear, llama3"):
        rope_speeds(4, Rope(scaling="ntk"))
    with torch.device("meta"):  # what is remembered must not be empty later
        assert rope_speeds(6, Rope(77.0)).device.type == "cpu"


SCALINGS = {
    "linear": {"factor": 3.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 5.0},
    "yarn, by hand": {"factor": 40.0, "beta_slow": 2.0, "beta_fast": 20.0},
}


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("head_dim, base, trained", [(10, 77.0, 50), (96, 5e5, 8192), (6, 1e4, 7)])
def test_scaled_speeds_are_those_of_transformers(kind, head_dim, base, trained):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {"rope_type": kind.split(",")[0], "rope_theta": base} | SCALINGS[kind]
    given["original_max_position_embeddings"] = trained
    config = LlamaConfig(
        head_dim=head_dim, max_position_embeddings=999, rope_parameters=dict(given)
    )
    speeds, stretch = ROPE_INIT_FUNCTIONS[given["rope_type"]](config, "cpu")
    rope = read_one_rope(given)
    torch.testing.assert_close(rope_speeds(head_dim, rope), speeds)
    assert rope.stretch == pytest.approx(stretch) and (stretch > 1) == ("yarn" in kind)


def test_turning_keeps_lengths_and_knows_distances_alone():
    q, k = torch.randn(2, 1, 3, 9, 10, generator=dice(), dtype=torch.float64)

    def scores(shift):
        cos, sin = turn_angles(torch.arange(9) + shift, 10, Rope(50.0), q)
        assert cos.shape == sin.shape == (9, 5)
        turned = turn_pairs(q, cos, sin), turn_pairs(k, cos, sin)
        torch.testing.assert_close(turned[0].norm(dim=-1), q.norm(dim=-1))
        return turned[0] @ turned[1].mT

    torch.testing.assert_close(scores(0), scores(11), atol=1e-4, rtol=1e-4)
    cos, sin = turn_angles(torch.tensor([1]), 4, Rope(), torch.ones(1))
    by_hand = turn_pairs(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), cos, sin)[0].tolist()
    slow = 0.01
    expected = [math.cos(1), -2 * math.sin(slow), math.sin(1), 2 * math.cos(slow)]
    assert by_hand == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bend", ["silu", "gelu_gated"])
def test_the_gate_by_hand(bend):
    part, x = stirred(GatedFeedForward(3, 5, bend)), torch.randn(2, 4, 3, generator=dice())
    bent = {"silu": F.silu, "gelu_gated": partial(F.gelu, approximate="tanh")}[bend]
    wide = bent(x @ part.gate.weight.T) * (x @ part.up.weight.T)
    torch.testing.assert_close(part(x), wide @ part.down.weight.T)


def test_window_masks():
    assert sliding_window_mask(2, 4, 2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert sliding_window_mask(3, 3, None).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert sliding_window_mask(3, 3, 1).int().tolist() == torch.eye(3).int().tolist()


@pytest.mark.parametrize("window", [None, 1, 4])
def test_a_layers_memory_keeps_what_can_be_seen(window):
    memory = LayerMemory(window)
    for start, count in ((0, 3), (3, 1), (4, 5), (9, 1)):
        new = torch.arange(start, start + count).float()[None, None, :, None]
        keys, values = memory.add(new, -new)
        first = 0 if window is None else max(0, start - window + 1)
        wanted = list(range(min(first, start), start + count))
        assert keys.flatten().tolist() == wanted == (-values).flatten().tolist()
    assert memory.num_bytes == 2 * 4 * (10 if window is None else window - 1)


def test_attention_is_what_the_formula_says():
    """Written out for every pair, with groups, norms, turning and a window."""
    config = replace(SMALL, qk_norm="head", window=4, attention_scale=0.7)
    part, x = stirred(ModernAttention(config)), torch.randn(1, 9, 36, generator=dice())
    mixed = []
    for t in range(9):
        for head in range(6):
            group = head // 3

            def vector(linear, norm, place, which):
                raw = norm(linear(x[0, place]).view(-1, 10)[which])
                cos, sin = turn_angles(torch.tensor([place]), 10, Rope(), raw)
                return turn_pairs(raw[None], cos, sin)[0]

            seen = range(max(0, t - 3), t + 1)
            q = vector(part.query, part.query_norm, t, head)
            scores = [0.7 * q @ vector(part.key, part.key_norm, s, group) for s in seen]
            values = torch.stack([part.value(x[0, s]).view(-1, 10)[group] for s in seen])
            mixed.append(torch.stack(scores).softmax(0) @ values)
    wanted = part.out(torch.stack(mixed).view(9, 60))
    torch.testing.assert_close(part(x, torch.arange(9))[0], wanted, atol=1e-4, rtol=1e-4)


WINDOWED = [
    SMALL,
    replace(SMALL, window=5, global_layers=(1,), local_rope=Rope(100.0)),
    replace(SMALL, window=1, num_kv_heads=6, norm_place="sandwich", norm_offset=1.0),
    replace(SMALL, norm="layer", positions="learned", bias=True, norm_place="post", tied=False),
    replace(SMALL, num_experts=4, experts_per_token=2, qk_norm="all", embed_scale=True),
]


@pytest.mark.parametrize("config", WINDOWED, ids=lambda c: c.norm_place + str(c.window))
def test_a_memory_changes_nothing(config):
    """Any chunks, past the windows; and chapter 4's generate, token for token."""
    model, row = stirred(ModernModel(config)), ids(2, 40)
    with torch.no_grad():
        whole = model(row)
        for cuts in ((1,) * 40, (7, 1, 12, 20)):
            memory = ModelMemory(config)
            parts = [model(chunk, memory) for chunk in row.split(cuts, dim=1)]
            torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
        for layer, kept in enumerate(memory.layers):
            free = config.window is None or layer in config.global_layers
            assert kept.keys.shape[2] == (40 if free else config.window - 1)
    (slow,) = generate(model, [row[0, :3].tolist()], 30, temperature=0)
    assert continue_modern(model, row[0, :3].tolist(), 30) == slow
    with pytest.raises(ValueError, match="60 \\+ 5 tokens.*64"):
        continue_modern(model, [1] * 60, 5)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"norm": "batch"}, "norm='batch', expected .*rms"),
        ({"num_layers": 0}, "num_layers=0, expected a whole number"),
        ({"embed_dim": 3.5}, "embed_dim=3.5"),
        ({"num_kv_heads": 4}, "expected one of .1, 2, 3, 6."),
        ({"head_dim": 9}, "head_dim=9: rope turns pairs"),
        ({"feed_forward": "gelu"}, "4 · embed_dim = 144"),
        ({"window": 0}, "window=0"),
        ({"num_experts": 3, "experts_per_token": 4}, "experts_per_token=4, expected 1 to 3"),
    ],
)
def test_configurations_that_make_no_model(change, says):
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **change)


def test_the_seed_alone_decides_the_first_weights():
    before = torch.random.get_rng_state()
    one, same, other = (ModernModel(SMALL, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(one.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.token_embedding.weight, other.token_embedding.weight)
    spread = one.blocks[1].attention.out.weight.std().item()
    assert spread == pytest.approx(0.02 / 6**0.5, rel=0.1)
    experts = ModernModel(replace(SMALL, num_experts=4, experts_per_token=1), seed=0)
    for name in ("down", "up"):
        spread = getattr(experts.blocks[0].feed_forward.experts[2], name).weight.std().item()
        assert spread == pytest.approx(0.02 / (6**0.5 if name == "down" else 1), rel=0.1)


# --- Experts, latents, the delta rule, two tokens


def test_routing_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    chosen, weights, chances = route_tokens(logits, 2)
    assert chosen[:, 0].tolist() == [0, 2]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2))
    assert weights[0].tolist() == pytest.approx([0.625, 0.375])
    assert route_tokens(logits, 2, renormalise=False)[1][0].tolist() == pytest.approx([0.5, 0.3])
    torch.testing.assert_close(chances, logits.exp())


@pytest.mark.parametrize("renormalise", [True, False])
def test_experts_are_the_weighed_sum_of_the_chosen(renormalise):
    config = replace(SMALL, num_experts=5, experts_per_token=3, renormalise=renormalise)
    part, x = stirred(MixtureOfExperts(config)), torch.randn(2, 7, 36, generator=dice())
    wanted = torch.zeros_like(x)
    for b, t in ((b, t) for b in range(2) for t in range(7)):
        chances = part.router(x[b, t]).softmax(-1)
        best = chances.argsort(descending=True)[:3]
        total = chances[best].sum() if renormalise else 1.0
        for expert in best.tolist():
            wanted[b, t] += chances[expert] / total * part.experts[expert](x[b, t])
    torch.testing.assert_close(part(x), wanted, atol=1e-4, rtol=1e-4)
    assert part.routed is None
    part.train()(x)
    chosen, chances = part.routed
    assert chosen.shape == (14, 3) and chances.shape == (14, 5)
    part.eval()(x)
    copy.deepcopy(part)  # nothing of the pass is held any more


def test_balance():
    assert float(balance_loss(torch.arange(8)[:, None] % 4, torch.full((8, 4), 0.25))) == 1.0
    assert float(balance_loss(torch.zeros(8, 2).long(), torch.eye(4)[[0] * 8])) == 4.0
    chances = torch.tensor([[0.5, 0.5], [0.75, 0.25]], requires_grad=True)
    loss = balance_loss(torch.tensor([[0], [0]]), chances)
    assert loss.item() == pytest.approx(2 * 0.625)
    loss.backward()
    assert chances.grad[:, 0].tolist() == [1.0, 1.0] and chances.grad[:, 1].tolist() == [0.0, 0.0]
    model = ModernModel(replace(SMALL, num_experts=4, experts_per_token=2), seed=0).train()
    assert model_balance(model) == 0.0
    model(ids(2, 9))
    assert 1.0 <= model_balance(model).item() < 4 and model_balance(model) == 0.0
    assert model_balance(ModernModel(SMALL, seed=0)) == 0.0


def test_the_balance_loss_evens_out_a_lopsided_router():
    config = replace(SMALL, num_layers=1, num_experts=4, experts_per_token=1)
    x, shares = torch.randn(1, 200, 36, generator=dice()) + 1, {}
    for weight in (0.0, 1.0):
        part = ModernModel(config, seed=0).blocks[0].feed_forward.train()
        part.router.weight.data[2] += 0.2  # the third expert is everyone's favourite
        optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
        for _ in range(60):
            part(x)
            (weight * balance_loss(*part.routed)).backward()
            optimizer.step()
            optimizer.zero_grad()
        part(x)
        shares[weight] = torch.bincount(part.routed[0].flatten(), minlength=4).max() / 200
    assert shares[0.0] > 0.9 and shares[1.0] < 0.6, shares


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_latent_attention_written_out(positions):
    config = replace(SMALL, positions=positions)
    part = stirred(LatentAttention(config, latent=12, turned=4))
    x, turned = torch.randn(2, 9, 36, generator=dice()), 4 if positions == "rope" else 0
    assert part.cached == 12 + turned
    latent, shared_part = part.squeeze(x).split((12, turned), -1)
    both = part.widen(part.norm(latent)).view(2, 9, 6, 20)
    q = part.query(x).view(2, 9, 6, 10 + turned)
    cos, sin = turn_angles(torch.arange(9), max(turned, 2), Rope(), x)
    out = torch.zeros(2, 9, 6, 10)
    for b, t, h in ((b, t, h) for b in range(2) for t in range(9) for h in range(6)):
        scores = both[b, : t + 1, h, :10] @ q[b, t, h, :10]
        if turned:
            places = turn_pairs(shared_part[b, : t + 1], cos[: t + 1], sin[: t + 1])
            scores = scores + places @ turn_pairs(q[b, t, h, None, 10:], cos[t], sin[t])[0]
        weights = (scores / (10 + turned) ** 0.5).softmax(0)
        out[b, t, h] = weights @ both[b, : t + 1, h, 10:]
    given = part(x, torch.arange(9))
    torch.testing.assert_close(given, part.out(out.flatten(2)), atol=1e-4, rtol=1e-4)


def test_places_beside_keys_know_distances_alone():
    q, k = torch.randn(1, 2, 5, 9, generator=dice()), torch.randn(1, 2, 5, 5, generator=dice(1))
    turned = torch.randn(1, 1, 5, 4, generator=dice(2))
    scores = []
    for shift in (0, 7):
        both = beside_places(q, k, turned, torch.arange(5) + shift, Rope())
        assert both[0].shape == both[1].shape == q.shape
        scores.append(both[0] @ both[1].mT)
    torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-4)


def delta_inputs(tokens: int = 37):
    q, k = F.normalize(torch.randn(2, 2, 3, tokens, 8, generator=dice()), dim=-1)
    v, beta = torch.randn(2, 3, tokens, 5, generator=dice(1)), torch.rand(2, 3, tokens)
    return q, k, v, beta, -3 * torch.rand(2, 3, tokens, generator=dice(2))


def test_the_delta_rule_by_hand():
    """As the formula of the paper: S (alpha (I - beta k kᵀ)) + beta v kᵀ, transposed."""
    q, k, v, beta, decay = delta_inputs(6)
    read, state = delta_steps(q, k, v, beta, decay)
    by_hand = torch.zeros(8, 5)
    for t in range(6):
        key = k[1, 2, t]
        keep = decay[1, 2, t].exp() * (torch.eye(8) - beta[1, 2, t] * torch.outer(key, key))
        by_hand = keep @ by_hand + beta[1, 2, t] * torch.outer(key, v[1, 2, t])
        torch.testing.assert_close(read[1, 2, t], q[1, 2, t] @ by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state[1, 2], by_hand, atol=1e-5, rtol=1e-5)
    again, _ = delta_steps(q, k, v, beta, decay, state)
    assert not torch.allclose(again, read)


@pytest.mark.parametrize("size", [1, 4, 16, 37, 64])
def test_chunks_are_the_steps_and_so_are_their_gradients(size):
    inputs = [x.requires_grad_() for x in delta_inputs()]
    out = {}
    for name, way in (("steps", lambda *x: delta_steps(*x)[0]), ("chunks", delta_chunks)):
        read = way(*inputs) if name == "steps" else way(*inputs, size)
        out[name] = (read, *torch.autograd.grad(read.pow(2).sum(), inputs))
    for one, other in zip(out["steps"], out["chunks"], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("attention", [LatentAttention, DeltaAttention, ModernAttention])
def test_nobody_sees_the_future(attention):
    model, row = ModernModel(SMALL, seed=0, attention=attention).eval(), ids(1, 40)
    other = row.clone()
    other[0, 25:] = ids(15, seed=9)
    with torch.no_grad():
        before, after = model(row), model(other)
    torch.testing.assert_close(before[:, :25], after[:, :25], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, 25:], after[:, 25:])


def test_the_second_token_is_asked_for_and_costs_nothing_later():
    model = ModernModel(SMALL, seed=0)
    plain = copy.deepcopy(model)
    both, row = TwoAhead(model, seed=1), ids(2, 9)
    first, second = both(row)
    torch.testing.assert_close(first, plain(row))
    targets = ids(2, 9, seed=2)
    targets[1, 6:] = IGNORED
    logs = second.log_softmax(-1)
    asked = [(b, t) for b in range(2) for t in range(8) if targets[b, t + 1] != IGNORED]
    extra = -sum(logs[b, t, targets[b, t + 1]] for b, t in asked) / len(asked)
    alone = modern_loss(model, (row, targets))
    torch.testing.assert_close(modern_loss(both, (row, targets), ahead=0.5), alone + 0.5 * extra)
    names = [name for name, _ in both.named_parameters()]
    assert sum(name.startswith("blocks.3.") for name in names) > 5
    assert len(list(both.parameters())) == len(set(both.parameters()))


def test_a_run_learns_and_stops_at_its_budget():
    row = ids(1, 21).repeat(8, 1)
    seen = []

    def batches():
        while True:
            seen.append(1)
            yield row[:, :-1], row[:, 1:]

    config = replace(SMALL, num_experts=4, experts_per_token=2)
    model = ModernModel(config, seed=0)
    before = modern_loss(model, (row[:, :-1], row[:, 1:])).item()
    equal_budget_run(model, batches(), 160 * 40, balance=0.01)
    assert len(seen) == 40 and not model.training
    assert modern_loss(model, (row[:, :-1], row[:, 1:])).item() < before / 3


# --- Families, against transformers


def family(kind: str):
    """A transformers model at odd sizes, its weights stirred."""
    import transformers

    sizes = {"vocab_size": 101, "hidden_size": 36, "num_hidden_layers": 3, "intermediate_size": 52}
    sizes |= {"num_attention_heads": 6, "max_position_embeddings": 64, "head_dim": 10}
    sizes |= {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "rope_theta": 100.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    yarn["rope_theta"] = 100.0
    local, everything = "sliding_attention", "full_attention"
    ropes = {local: {"rope_type": "default", "rope_theta": 50.0}}
    ropes |= {everything: {"rope_type": "linear", "factor": 4.0, "rope_theta": 3000.0}}
    experts = {"moe_intermediate_size": 20, "num_experts": 5, "num_experts_per_tok": 2}
    window = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    gemma = {"num_key_value_heads": 2, "sliding_window": 5, "query_pre_attn_scalar": 7}
    gemma["layer_types"] = [local, everything, local]
    name, more = {
        "llama": ("Llama", {"num_key_value_heads": 2, "rope_parameters": llama3}),
        "llama, tied, biased": ("Llama", {"tie_word_embeddings": True, "attention_bias": True}),
        "qwen3": ("Qwen3", {"num_key_value_heads": 3}),
        "qwen3, yarn": ("Qwen3", {"num_key_value_heads": 2, "rope_parameters": yarn}),
        "qwen3, window": ("Qwen3", {"num_key_value_heads": 1} | window),
        "qwen3 moe": ("Qwen3Moe", experts | {"num_key_value_heads": 2, "norm_topk_prob": True}),
        "qwen3 moe, raw": ("Qwen3Moe", experts | {"num_key_value_heads": 6}),
        "gemma3": ("Gemma3Text", gemma),
        "gemma3, ropes": ("Gemma3Text", gemma | {"rope_parameters": ropes}),
        "olmo2": ("Olmo2", {"num_key_value_heads": 3, "head_dim": 6}),
    }[kind]
    config = getattr(transformers, name + "Config")(**sizes | more)
    model = getattr(transformers, name.removesuffix("Text") + "ForCausalLM")(config)
    return stirred(model, seed=len(kind))


KINDS = ["llama", "llama, tied, biased", "qwen3", "qwen3, yarn", "qwen3, window", "qwen3 moe"]
KINDS += ["qwen3 moe, raw", "gemma3", "gemma3, ropes", "olmo2"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_texts_are_those_of_transformers(kind, tmp_path):
    """In float32 to 1e-4, from a sharded and from a single file; texts past window and training."""
    theirs = family(kind)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    theirs.save_pretrained(tmp_path / "single")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 5
    row = ids(2, 13)
    with torch.no_grad():
        wanted = theirs(row).logits
        for folder in ("shards", "single"):
            ours = load_modern(tmp_path / folder)
            assert (ours(row) - wanted).abs().max() <= 1e-4 < wanted.abs().max()
        assert ours.num_parameters() == theirs.num_parameters()
        written = theirs.generate(row[:1], max_new_tokens=30, do_sample=False, pad_token_id=0)
    assert continue_modern(ours, row[0].tolist(), 30) == written[0].tolist()


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_sixteen_bits_stay_sixteen_bits(kind, tmp_path):
    theirs = family(kind).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours, wide = load_modern(tmp_path), load_modern(tmp_path, torch.float32)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    with torch.no_grad():
        again = type(theirs).from_pretrained(tmp_path, dtype=torch.float32)
        assert (wide(ids(2, 13)) - again(ids(2, 13)).logits).abs().max() <= 1e-4
        assert (ours(ids(2, 13)).float() - wide(ids(2, 13))).abs().max() < 0.5


def published_content(**changes) -> dict:
    """A config.json of the older kind, as most published ones are."""
    content = {"model_type": "gemma3_text", "vocab_size": 101, "max_position_embeddings": 64}
    content |= {"hidden_size": 36, "num_hidden_layers": 7, "num_attention_heads": 6}
    content |= {"num_key_value_heads": 2, "head_dim": 10, "intermediate_size": 52}
    return content | changes


def test_config_files_of_the_older_kind():
    gemma = published_content(rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=9)
    gemma |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 3}
    config = modern_config(gemma)
    assert config.rope == Rope(1e6, "linear", 8.0) and config.local_rope == Rope(1e4)
    assert (config.window, config.global_layers, config.tied) == (9, (2, 5), True)
    llama3 = {"type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3["original_max_position_embeddings"] = 8192
    llama = published_content(model_type="llama", rope_theta=5e5, rope_scaling=llama3)
    config = modern_config({k: v for k, v in llama.items() if k not in ("head_dim",)})
    assert config.rope == Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192) and config.head_dim == 6
    assert not config.tied and config.window is None
    qwen = published_content(model_type="qwen3", sliding_window=9, use_sliding_window=False)
    assert modern_config(qwen).window is None


@pytest.mark.parametrize(
    "change, says",
    [
        ({"model_type": "gpt2"}, "model_type='gpt2', expected one of llama"),
        ({"model_type": "gemma3"}, "only the text models"),
        ({"hidden_activation": "relu"}, "hidden_activation='relu'.*gelu_pytorch_tanh"),
        ({"final_logit_softcapping": 30.0}, "softcapping=30.0"),
        ({"model_type": "qwen3", "mlp_bias": True}, "mlp_bias=True"),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic"}}, "dynamic.*expected default"),
        (
            {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4.0}},
            "not say .'orig",
        ),
        (
            {"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor.*expected default",
        ),
        (
            {"model_type": "qwen3", "rope_scaling": {"type": "yarn", "mscale": 0.7}},
            "mscale.*expected default",
        ),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [1]}, "mlp_only_layers"),
        ({"model_type": "qwen3_moe"}, "does not say .'moe_intermediate_size', 'num_experts_per"),
    ],
)
def test_what_is_not_computed_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        modern_config(published_content(**change))
    with pytest.raises(ValueError, match="does not say .'hidden_size'.*gemma3_text"):
        modern_config({k: v for k, v in published_content().items() if k != "hidden_size"})


def test_names():
    name = partial(published_name, config=SMALL)
    assert name("blocks.3.feed_forward.experts.7.up.weight") == (
        "model.layers.3.mlp.experts.7.up_proj.weight"
    )
    assert name("blocks.0.norm2.weight") == "model.layers.0.post_attention_layernorm.weight"
    sandwich = replace(SMALL, norm_place="sandwich")
    assert published_name("blocks.0.norm2.weight", sandwich).endswith(
        "pre_feedforward_layernorm.weight"
    )
    for wrong in ("position_embedding.weight", "blocks.1.attention.qkv.weight", "nonsense"):
        with pytest.raises(ValueError, match=f"'{wrong}' is no part"):
            name(wrong)


# --- Loading


@pytest.fixture
def folder(tmp_path):
    """A fresh copy of a sharded checkpoint."""
    family("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


def spoil(folder: Path, change) -> None:
    """Let `change` alter the tensors of the shard that holds layer 1's queries."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"]["model.layers.1.self_attn.q_proj.weight"]
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)


def test_tensors_that_do_not_fit_are_named(folder):
    name = "model.layers.1.self_attn.q_proj.weight"
    spoil(folder, lambda tensors: tensors.update({name: torch.zeros(36, 60)}))
    with pytest.raises(ValueError, match=r"1 of another shape: .*q_proj.* \(36, 60\), .*60, 36"):
        load_modern(folder)
    spoil(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match="1 missing: .*q_proj.* .the index says it is in m"):
        load_modern(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.extra.weight"] = index["weight_map"].pop(name)
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="1 missing: .*q_proj.weight; 1 unknown: .*layers.9.extra"):
        load_modern(folder)


def test_a_tied_head_may_be_there_once_more(tmp_path):
    theirs = family("llama, tied, biased")
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
    save_file(tensors, tmp_path / "model.safetensors")
    ours = load_modern(tmp_path)
    assert ours.output_head.weight is ours.token_embedding.weight
    assert (ours(ids(1, 5)) - theirs(ids(1, 5)).logits).abs().max() <= 1e-4


def test_missing_and_damaged_files_are_named(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="holds no config.json; load_modern needs it"):
        load_modern(tmp_path_factory.mktemp("empty"))
    for name in ("llama", "../a/b", str(folder / "nothing")):
        with pytest.raises(FileNotFoundError, match="neither a folder nor a model's name.*OWNER"):
            load_modern(name)
    shard = sorted(folder.glob("*.safetensors"))[2]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_modern(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {shard.name}"):
        load_modern(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../../etc/passwd"}}))
    with pytest.raises(ValueError, match="in the same folder"):
        load_modern(folder)
    for content in ("{", '{"map": {}}'):
        index.write_text(content)
        with pytest.raises(ValueError, match="damaged.*again"):
            load_modern(folder)


def test_a_loaded_model_owns_its_numbers_and_can_be_trained(folder):
    model = load_modern(folder)
    for path in folder.iterdir():
        path.unlink()
    row = ids(4, 12)
    before = modern_loss(model, (row[:, :-1], row[:, 1:])).item()
    equal_budget_run(model, [(row[:, :-1], row[:, 1:])] * 30, 44 * 30)
    assert modern_loss(model, (row[:, :-1], row[:, 1:])).item() < before / 2


def test_without_a_network_the_hub_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    with pytest.raises(DownloadError, match="config.json of some/model.*takes a folder"):
        load_modern("some/model")


@pytest.mark.parametrize("sharded", [True, False])
def test_a_hub_name_fetches_config_index_and_shards(sharded, tmp_path, monkeypatch):
    folder = tmp_path / "served" / "some" / "model" / "resolve" / "main"
    theirs = family("qwen3")
    theirs.save_pretrained(folder, max_shard_size="20KB" if sharded else "1GB")
    asked = []

    class Serve(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args):
            asked.append(Path(self.path).name)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    try:
        ours = load_modern("some/model")
    finally:
        server.shutdown()
    assert (ours(ids(1, 9)) - theirs(ids(1, 9)).logits).abs().max() <= 1e-4
    weights = {name for name in asked if name.endswith(".safetensors")}
    assert len(weights) > 5 if sharded else weights == {"model.safetensors"}


def save_large(folder: Path) -> int:
    """Let transformers save 140 MB in shards; how many bytes the numbers take."""
    import transformers

    sizes = {"vocab_size": 20011, "hidden_size": 512, "num_hidden_layers": 8, "head_dim": 64}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1536}
    config = transformers.Qwen3Config(**sizes, tie_word_embeddings=True)
    with torch.device("meta"):
        theirs = transformers.Qwen3ForCausalLM(config)
    theirs = theirs.to_empty(device="cpu")
    theirs.tie_weights()
    for p in theirs.parameters():
        p.data.fill_(0.01)
    theirs.save_pretrained(folder, max_shard_size="60MB")
    return 4 * theirs.num_parameters()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_loading_takes_little_more_than_the_weights(tmp_path):
    """A fresh process; all of its resident memory counts, mapped pages of the files, too.

    Above what the process had with everything imported, the peak stays within 1.1 × the weights.
    """
    weights = save_large(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    taken = loading_memory(tmp_path)
    assert taken["weights"] == weights > 140e6
    assert 0.95 < taken["after"] / weights <= taken["peak"] / weights <= 1.1, taken


def test_a_failed_measurement_says_why(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak is read from /proc")
    with pytest.raises(RuntimeError, match="holds no config.json"):
        loading_memory(tmp_path)


# --- The results


RESULTS = Path(__file__).parents[1] / "appendix/i_modern_architectures/results"


def test_the_comparison_is_complete():
    """Every variant with the same seeds, at least three, and the speeds of all."""
    compared = json.loads((RESULTS / "compare.json").read_text())
    speeds = json.loads((RESULTS / "speed.json").read_text())
    seeds = {}
    for run in compared["runs"]:
        seeds.setdefault(run["variant"], []).append(run["seed"])
    assert len(seeds) >= 19 and all(s == seeds["gpt2"] for s in seeds.values()), seeds
    assert len(seeds["gpt2"]) >= 3
    assert set(speeds["tokens_per_second"]) == set(seeds)
    for content in (compared, speeds):
        assert {"what", "settings", "machine", "date", "command"} <= set(content)


def test_longer_texts_were_asked_about_with_every_scaling():
    content = json.loads((RESULTS / "longer.json").read_text())
    settings, runs = content["settings"], content["runs"]
    assert len({(run["scaling"], run["seed"]) for run in runs}) == len(runs) >= 5 * 3
    places = settings["factor"] * settings["trained_length"] // settings["bucket"]
    assert all(len(run[when]) == places for run in runs for when in ("before", "after"))
    inside = settings["trained_length"] // settings["bucket"]
    plain, window = (next(r for r in runs if r["scaling"] == kind) for kind in ("none", "window"))
    assert plain["before"][:inside] == window["before"][:inside]  # the same model, nothing hidden
