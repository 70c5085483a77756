"""Chapter 4: the parts of a GPT, the model and its bill, and generation."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import shared.previous_chapters as chapters
from shared.previous_chapters import (
    GELU,
    GPT2_CONFIGS,
    FastLinear,
    FeedForward,
    GPTConfig,
    GPTModel,
    LayerNorm,
    TransformerBlock,
    evaluating,
    fast_linear,
    flop_ledger,
    generate,
    generate_stream,
    initialise,
    keep_top_k,
    keep_top_p,
    kv_cache_bytes,
    memory_ledger,
    next_logits,
    next_tokens,
    parameter_ledger,
    sampling_probabilities,
)

# No two sizes are equal, so that a mixed-up axis shows.
CONFIG = GPTConfig(vocab_size=61, context_length=13, embed_dim=24, num_heads=3, num_layers=2)
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_ids(batch: int, tokens: int, config: GPTConfig = CONFIG, seed: int = 0) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, tokens), generator=dice(seed))


def stirred(config: GPTConfig = CONFIG, seed: int = 0, spread: float = 0.3) -> GPTModel:
    """A model whose every parameter matters: norms and biases too, and logits far apart."""
    model = GPTModel(config, seed=seed)
    with torch.no_grad():
        for p in model.parameters():
            p += spread * torch.randn(p.shape, generator=dice(seed + 1))
    return model.eval()


def talker() -> GPTModel:
    """A stirred model that writes varied text: nothing pushes it to one token for ever."""
    model = stirred(seed=1)
    with torch.no_grad():
        model.final_norm.weight.fill_(1)
        for part in (model.final_norm, *(b.feed_forward.down for b in model.blocks)):
            part.bias.zero_()
        for block in model.blocks:
            block.attention.out.bias.zero_()
    return model


@pytest.fixture
def convolutions(monkeypatch):
    """Linear layers computed as convolutions, whatever this machine's processor."""
    monkeypatch.setattr(chapters, "convolution_pays", lambda: True)


@pytest.fixture
def no_convolutions(monkeypatch):
    """Ordinary linear layers."""
    monkeypatch.setattr(chapters, "convolution_pays", lambda: False)


# The configuration


def test_config_is_frozen_and_survives_a_dict():
    assert GPTConfig(**dataclasses.asdict(CONFIG)) == CONFIG
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.embed_dim = 48


@pytest.mark.parametrize(
    "change, words",
    [
        ({"vocab_size": 0}, ["vocab_size=0", "whole number from 1"]),
        ({"context_length": -3}, ["context_length=-3"]),
        ({"embed_dim": 24.0}, ["embed_dim=24.0", "whole number"]),
        ({"num_layers": True}, ["num_layers=True"]),
        ({"num_layers": "2"}, ["num_layers='2'"]),
        ({"num_heads": 5}, ["embed_dim=24", "num_heads=5", "such as num_heads=4"]),
        ({"num_heads": 48}, ["num_heads=48", "such as num_heads=24"]),
        ({"dropout": 1.0}, ["dropout=1.0", "0 (none) to below 1"]),
        ({"dropout": -0.1}, ["dropout=-0.1"]),
        ({"dropout": float("nan")}, ["dropout=nan"]),
        ({"dropout": "0.1"}, ["dropout='0.1'"]),
        ({"qkv_bias": 1}, ["qkv_bias=1", "True or False"]),
    ],
)
def test_config_names_what_is_wrong(change, words):
    with pytest.raises(ValueError) as raised:
        dataclasses.replace(CONFIG, **change)
    assert all(word in str(raised.value) for word in words), raised.value


# The parts


@pytest.mark.parametrize("shape", [(1, 1, 30), (3, 5, 30), (7, 30)])
def test_layer_norm_equals_its_formula(shape):
    norm = LayerNorm(30)
    nn.init.normal_(norm.weight, generator=dice(1))
    nn.init.normal_(norm.bias, generator=dice(2))
    x = 5 * torch.randn(shape, generator=dice(3)) - 2
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    expected = norm.weight * (x - mean) / (variance + 1e-5).sqrt() + norm.bias
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert torch.allclose(LayerNorm(30)(torch.full(shape, 4.0)), torch.zeros(shape))


def test_gelu_equals_its_formula_and_keeps_a_slope():
    x = torch.linspace(-9, 9, 1801, requires_grad=True)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    assert torch.allclose(GELU()(x), 0.5 * x * (1 + inner.tanh()), atol=1e-6)
    assert GELU()(torch.tensor([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.0, 1e4]


def test_feed_forward_equals_its_formula_and_mixes_no_tokens():
    layer = FeedForward(6)
    x = torch.randn(2, 5, 6, generator=dice())
    inside = F.gelu(x @ layer.up.weight.T + layer.up.bias, approximate="tanh")
    assert inside.shape == (2, 5, 24)
    expected = inside @ layer.down.weight.T + layer.down.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)
    alone = torch.stack([layer(x[:, i]) for i in range(5)], dim=1)
    assert torch.allclose(layer(x), alone, atol=1e-6)


def test_block_adds_two_branches_to_the_stream():
    block = TransformerBlock(CONFIG)
    x = torch.randn(2, 7, 24, generator=dice())
    middle = x + block.attention(F.layer_norm(x, (24,)))
    expected = middle + block.feed_forward(F.layer_norm(middle, (24,)))
    assert torch.allclose(block(x), expected, atol=1e-6)
    for writer in (block.attention.out, block.feed_forward.down):
        nn.init.zeros_(writer.weight)
        nn.init.zeros_(writer.bias)
    assert torch.equal(block(x), x)


def test_block_drops_only_while_training():
    block = TransformerBlock(dataclasses.replace(CONFIG, dropout=0.5))
    x = torch.randn(2, 7, 24, generator=dice())
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


# First weights


def test_first_weights_have_gpt2s_spreads():
    model = GPTModel(GPTConfig(997, 101, 120, 5, 8), seed=0)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert p.abs().max() == 0, name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            writes = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            expected = 0.02 / 4 if writes else 0.02
            assert p.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(p.mean().item()) < 0.001, name


@pytest.mark.parametrize("vocab_size", [61, 1024])
def test_an_untrained_model_knows_nothing(vocab_size):
    config = GPTConfig(vocab_size, 33, 48, 4, 5)
    ids = some_ids(8, 33, config)
    logits = GPTModel(config, seed=3)(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(vocab_size), abs=0.1)


def test_a_seed_fixes_the_weights_and_touches_no_other_randomness():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = GPTModel(CONFIG, seed=1)
    assert torch.equal(torch.rand(3), expected)
    second, other = GPTModel(CONFIG, seed=1), GPTModel(CONFIG, seed=2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.token_embedding.weight, other.token_embedding.weight)


def test_initialise_finds_the_writers_in_any_stack():
    stack = nn.ModuleList(TransformerBlock(CONFIG) for _ in range(2))
    initialise(stack, 50, dice())
    assert stack[1].feed_forward.down.weight.std().item() == pytest.approx(0.002, rel=0.1)
    assert stack[1].feed_forward.up.weight.std().item() == pytest.approx(0.02, rel=0.1)


# Linear layers as convolutions


@pytest.mark.parametrize(
    "batch, tokens, features, out", [(16, 1, 6, 10), (17, 9, 10, 3), (33, 5, 1, 7)]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_convolution_equals_linear_with_gradients(
    convolutions, batch, tokens, features, out, with_bias
):
    x = torch.randn(batch, tokens, features, generator=dice(), requires_grad=True)
    weight = torch.randn(out, features, generator=dice(1), requires_grad=True)
    bias = torch.randn(out, generator=dice(2), requires_grad=True) if with_bias else None
    learned = (x, weight, bias) if with_bias else (x, weight)
    results = fast_linear(x, weight, bias), F.linear(x, weight, bias)
    assert torch.allclose(*results, atol=1e-5) and results[0].shape == (batch, tokens, out)
    push = torch.randn(batch, tokens, out, generator=dice(3))
    gradients = [torch.autograd.grad(y, learned, push) for y in results]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_convolution_is_left_out_where_it_cannot_work(convolutions):
    layer = FastLinear(4, 3)
    for x in (torch.randn(20, 4), torch.randn(2, 5, 4), torch.randn(0, 5, 4), torch.randn(4)):
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    x = torch.randn(20, 5, 4, dtype=torch.float64)
    assert layer.double()(x).dtype == torch.float64
    with torch.device("meta"):
        assert FastLinear(4, 3)(torch.empty(20, 5, 4)).shape == (20, 5, 3)


def test_the_model_is_the_same_with_and_without_convolutions(monkeypatch):
    model, ids = stirred(), some_ids(19, 11)
    results = []
    for pays in (True, False):
        monkeypatch.setattr(chapters, "convolution_pays", lambda pays=pays: pays)
        model.zero_grad()
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in model.parameters()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_every_linear_layer_of_the_model_is_fast():
    model = GPTModel(CONFIG)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 4 * CONFIG.num_layers
    assert all(type(m) is FastLinear for m in linear)


# Tying


def test_the_head_owns_nothing():
    model = GPTModel(CONFIG, seed=0)
    assert model.output_head.weight is model.token_embedding.weight
    assert [n for n, _ in model.named_parameters() if "head" in n] == []
    assert [n for n in model.state_dict() if "head" in n] == []


def ways_of_copying():
    def deepcopied(model):
        return copy.deepcopy(model)

    def pickled(model):
        return pickle.loads(pickle.dumps(model))

    def loaded(model):
        other = GPTModel(model.config)
        other.load_state_dict(model.state_dict())
        return other

    def assigned(model):
        with torch.device("meta"):
            other = GPTModel(model.config)
        other.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        return other

    def emptied(model):
        with torch.device("meta"):
            other = GPTModel(model.config)
        other.to_empty(device="cpu").load_state_dict(model.state_dict())
        return other

    def converted(model):
        return copy.deepcopy(model).double().float()

    return [deepcopied, pickled, loaded, assigned, emptied, converted]


@pytest.mark.parametrize("way", ways_of_copying(), ids=lambda way: way.__name__)
def test_tying_survives_every_way_of_copying(way):
    model = stirred()
    other = way(model).eval()
    assert other.output_head.weight is other.token_embedding.weight
    assert other.output_head.weight is not model.output_head.weight
    assert other.num_parameters() == model.num_parameters()
    assert torch.allclose(other(some_ids(2, 5)), model(some_ids(2, 5)), atol=1e-5)
    with torch.no_grad():
        other.token_embedding.weight += 1
    assert not torch.allclose(other(some_ids(2, 5)), model(some_ids(2, 5)))


def test_the_tied_matrix_learns_at_both_ends():
    model, ids = stirred(), torch.tensor([[1, 2, 3]])
    F.cross_entropy(model(ids)[0], torch.tensor([2, 3, 4])).backward()
    gradient = model.token_embedding.weight.grad.abs().sum(dim=1)
    assert (gradient > 0).all(), "every token's score took part, so every row should learn"
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    steps.step()
    assert model.output_head.weight is model.token_embedding.weight


# The model


def test_logits_equal_the_parts_put_together_by_hand():
    model, ids = stirred(), some_ids(3, 7)
    x = F.embedding(ids, model.token_embedding.weight)
    x = x + model.position_embedding.weight[:7]
    for block in model.blocks:
        x = block(x)
    x = F.layer_norm(x, (24,), model.final_norm.weight, model.final_norm.bias, 1e-5)
    assert torch.allclose(model(ids), x @ model.token_embedding.weight.T, atol=1e-4)


@pytest.mark.parametrize("batch, tokens", [(1, 1), (1, 13), (5, 2), (17, 13)])
def test_any_batch_and_length_up_to_the_context(batch, tokens):
    model, ids = stirred(), some_ids(batch, tokens)
    logits = model(ids)
    assert logits.shape == (batch, tokens, 61) and logits.isfinite().all()
    one_by_one = torch.cat([model(row[None]) for row in ids])
    assert torch.allclose(logits, one_by_one, atol=1e-4)
    assert torch.equal(model(ids.to(torch.int32)), logits)


def test_an_empty_batch_gives_an_empty_result():
    assert GPTModel(CONFIG)(torch.zeros(0, 5, dtype=torch.long)).shape == (0, 5, 61)


def test_later_tokens_are_invisible():
    model, ids = stirred(), some_ids(2, 11)
    full = model(ids)
    for place in (0, 4, 10):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % 61
        moved = (model(other) - full).abs().amax(dim=(0, 2)) > 1e-6
        assert not moved[:place].any() and moved[place]


@pytest.mark.parametrize(
    "ids, words",
    [
        (torch.zeros(2, 14, dtype=torch.long), ["14 tokens", "context_length=13", "Cut"]),
        (torch.zeros(2, 0, dtype=torch.long), ["0 tokens", "1 to"]),
        (torch.zeros(5, dtype=torch.long), ["(5,)", "(batch, tokens)", "token_ids[None]"]),
        (torch.zeros(2, 5), ["torch.float32", "whole numbers"]),
        (torch.zeros(2, 5, dtype=torch.bool), ["torch.bool"]),
        (torch.tensor([[3, 61]]), ["from 3 to 61", "vocab_size=61", "0 to 60", "tokenizer"]),
        (torch.tensor([[-1, 60]]), ["from -1 to 60"]),
    ],
)
def test_the_model_names_what_it_cannot_read(ids, words):
    with pytest.raises(ValueError) as raised:
        GPTModel(CONFIG)(ids)
    assert all(word in str(raised.value) for word in words), raised.value


def test_off_the_cpu_no_id_is_looked_at():
    with torch.device("meta"):  # reading a value of a meta tensor raises
        logits = GPTModel(CONFIG)(torch.empty(2, 5, dtype=torch.long))
    assert logits.shape == (2, 5, 61)


# Against transformers


def transformers_gpt2(config: GPTConfig, seed: int):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=config.context_length,
                n_embd=config.embed_dim,
                n_head=config.num_heads,
                n_layer=config.num_layers,
            )
        ).eval()
        with torch.no_grad():  # so that biases and norms matter
            for p in theirs.parameters():
                p += 0.1 * torch.randn(p.shape)
    return theirs


def mapped(theirs: dict[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """Transformers' names and layouts to ours; its matrices stand the other way round."""
    names = {
        "norm1": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "norm2": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
    }
    ours = {
        "token_embedding.weight": theirs["transformer.wte.weight"],
        "position_embedding.weight": theirs["transformer.wpe.weight"],
        "final_norm.weight": theirs["transformer.ln_f.weight"],
        "final_norm.bias": theirs["transformer.ln_f.bias"],
    }
    for i in range(num_layers):
        for our, their in names.items():
            for kind in ("weight", "bias"):
                value = theirs[f"transformer.h.{i}.{their}.{kind}"]
                ours[f"blocks.{i}.{our}.{kind}"] = value.T if value.dim() == 2 else value
    return ours


@pytest.mark.parametrize(
    "sizes",
    [
        (61, 13, 24, 3, 2),
        (97, 7, 40, 5, 3),
        (5, 31, 6, 1, 1),
        (203, 17, 36, 9, 4),
        (50, 64, 64, 2, 6),
    ],
)
@pytest.mark.parametrize("batch", [1, 3, 18])
def test_logits_equal_transformers(sizes, batch):
    config = GPTConfig(*sizes)
    theirs = transformers_gpt2(config, seed=sum(sizes))
    model = GPTModel(config).eval()
    model.load_state_dict(mapped(theirs.state_dict(), config.num_layers))  # strict: none missing
    for tokens in {1, config.context_length // 2, config.context_length}:
        ids = some_ids(batch, tokens, config, seed=tokens)
        with torch.no_grad():
            assert (model(ids) - theirs(ids).logits).abs().max() <= 1e-4
    assert model.num_parameters() == theirs.num_parameters()


def test_without_qkv_bias_it_equals_transformers_with_zero_bias():
    config = GPTConfig(61, 13, 24, 3, 2, qkv_bias=False)
    theirs = transformers_gpt2(config, seed=1)
    weights = mapped(theirs.state_dict(), 2)
    for i in range(2):
        nn.init.zeros_(theirs.transformer.h[i].attn.c_attn.bias)
        del weights[f"blocks.{i}.attention.qkv.bias"]
    model = GPTModel(config).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        assert (model(some_ids(2, 9)) - theirs(some_ids(2, 9)).logits).abs().max() <= 1e-4


def test_greedy_text_equals_transformers():
    theirs = transformers_gpt2(CONFIG, seed=4)
    model = GPTModel(CONFIG)
    model.load_state_dict(mapped(theirs.state_dict(), 2))
    prompt = some_ids(3, 4, seed=2)
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=9,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert generate(model, prompt, 9, temperature=0).tolist() == expected.tolist()


# The bill


@pytest.mark.parametrize("name", PUBLISHED)
def test_gpt2s_sizes(name):
    with torch.device("meta"):
        model = GPTModel(GPT2_CONFIGS[name])
    assert model.num_parameters() == sum(parameter_ledger(model.config).values()) == PUBLISHED[name]
    assert model.config.context_length == 1024 and model.config.vocab_size == 50257
    assert model.config.embed_dim // model.config.num_heads == 64


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("sizes", [(61, 13, 24, 3, 2), (7, 5, 6, 2, 1), (301, 40, 20, 1, 5)])
def test_every_entry_of_the_parameter_ledger(sizes, qkv_bias):
    model = GPTModel(GPTConfig(*sizes, qkv_bias=qkv_bias))
    count = lambda *words: sum(
        p.numel() for n, p in model.named_parameters() if any(word in n for word in words)
    )
    assert parameter_ledger(model.config) == {
        "token embedding": count("token_embedding"),
        "position embedding": count("position_embedding"),
        "attention": count("attention"),
        "feed-forward": count("feed_forward"),
        "layer norms": count("norm"),
    }
    assert sum(parameter_ledger(model.config).values()) == model.num_parameters()


@pytest.mark.parametrize("tokens", [1, 7, 13])
def test_flops_equal_pytorchs_count(tokens):
    with torch.device("meta"):
        model, ids = GPTModel(CONFIG), torch.zeros(3, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids)
    assert counter.get_total_flops() == 3 * tokens * model.flops_per_token(tokens)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert counter.get_total_flops() == 3 * tokens * model.flops_per_token(tokens, training=True)
    assert sum(flop_ledger(CONFIG).values()) == model.flops_per_token(CONFIG.context_length)


@pytest.mark.parametrize(
    "sizes, batch, tokens", [((61, 13, 24, 3, 2), 3, 11), ((97, 50, 40, 4, 5), 2, 50)]
)
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_activations_equal_what_pytorch_keeps(no_convolutions, sizes, batch, tokens, qkv_bias):
    model = GPTModel(GPTConfig(*sizes, qkv_bias=qkv_bias))
    ids = some_ids(batch, tokens, model.config)
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    ledger = model.memory_ledger(batch, tokens)
    assert sum(kept.values()) == pytest.approx(
        ledger["activations"] + ledger["log-probabilities"], abs=64
    )


def test_memory_of_what_the_optimiser_keeps():
    model, ids = GPTModel(CONFIG), some_ids(2, 5)
    optimiser = torch.optim.AdamW(model.parameters())
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    optimiser.step()
    ledger = model.memory_ledger(2)
    averages = [v for s in optimiser.state.values() for v in s.values() if v.dim()]
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)
    assert ledger["parameters"] == size(model.parameters())
    assert ledger["gradients"] == size(p.grad for p in model.parameters())
    assert ledger["AdamW's averages"] == size(averages)
    assert {k: v // 2 for k, v in ledger.items()} == memory_ledger(CONFIG, 2, bytes_per_number=2)


def test_kv_cache_of_gpt2():
    # 2 × 12 blocks × 768 numbers × 1,024 tokens × 4 bytes
    assert kv_cache_bytes(GPT2_CONFIGS["gpt2"]) == 75_497_472
    assert kv_cache_bytes(CONFIG, batch_size=3, num_tokens=5, bytes_per_number=2) == 2 * 2 * 24 * 30


# From logits to tokens

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()


def test_temperature_divides():
    expected = (LOGITS / 0.7).softmax(-1)
    assert torch.allclose(sampling_probabilities(LOGITS, 0.7), expected, atol=1e-6)
    assert sampling_probabilities(LOGITS, 0).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-40, 1e3])
def test_extreme_temperatures_overflow_nothing(temperature):
    chances = sampling_probabilities(1e4 * LOGITS, temperature)
    assert chances.isfinite().all()
    assert torch.allclose(chances.sum(-1), torch.ones(2))


@pytest.mark.parametrize("top_k, kept", [(1, 1), (3, 3), (4, 4), (5, 4), (10**6, 4)])
def test_top_k_keeps_that_many(top_k, kept):
    chances = sampling_probabilities(LOGITS, top_k=top_k)
    assert (chances > 0).sum(-1).tolist() == [kept, kept]
    expected = torch.tensor([0.5, 0.3, 0.15, 0.05])[:kept]
    assert torch.allclose(chances[0, :kept], expected / expected.sum(), atol=1e-6)
    assert torch.allclose(chances[1].flip(0), chances[0], atol=1e-6)


@pytest.mark.parametrize(
    "top_p, kept",
    [(1e-6, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4), (1, 4)],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    chances = sampling_probabilities(LOGITS, top_p=top_p)
    assert (chances > 0).sum(-1).tolist() == [kept, kept]
    assert torch.allclose(chances.sum(-1), torch.ones(2))


def test_top_p_of_one_drops_no_token_however_rare():
    logits = torch.cat([torch.zeros(5), torch.full((50_000,), -17.0)])
    assert (sampling_probabilities(logits, top_p=1.0) > 0).all()


def test_ties_are_cut_to_exactly_k():
    equal = torch.zeros(2, 7)
    assert (sampling_probabilities(equal, top_k=3) > 0).sum(-1).tolist() == [3, 3]
    assert keep_top_k(equal, 2)[0].tolist() == [0, 0] + 5 * [-math.inf]
    assert (keep_top_p(equal, 0.5) > -math.inf).sum(-1).tolist() == [4, 4]


@pytest.mark.parametrize(
    "temperature, top_k, top_p", [(0.7, 5, 0.8), (1.3, 50, 0.95), (1.0, 1, 0.3)]
)
def test_chances_equal_transformers(temperature, top_k, top_p):
    transformers = pytest.importorskip("transformers")
    logits = 3 * torch.randn(4, 61, generator=dice(3))
    expected = logits
    for warper in (
        transformers.TemperatureLogitsWarper(temperature),
        transformers.TopKLogitsWarper(top_k),
        transformers.TopPLogitsWarper(top_p),
    ):
        expected = warper(None, expected)
    ours = sampling_probabilities(logits, temperature, top_k, top_p)
    assert torch.allclose(ours, expected.softmax(-1), atol=1e-6)


@pytest.mark.parametrize(
    "setting, words",
    [
        ({"temperature": -0.1}, ["temperature=-0.1", "0 (greedy)"]),
        ({"temperature": float("nan")}, ["temperature=nan"]),
        ({"temperature": float("inf")}, ["temperature=inf"]),
        ({"top_k": 0}, ["top_k=0", "None for all"]),
        ({"top_k": -2}, ["top_k=-2"]),
        ({"top_p": 0.0}, ["top_p=0.0", "above 0"]),
        ({"top_p": 1.01}, ["top_p=1.01"]),
        ({"top_p": float("nan")}, ["top_p=nan"]),
    ],
)
def test_sampling_names_the_wrong_setting(setting, words):
    with pytest.raises(ValueError) as raised:
        generate(stirred(), [[1, 2]], 3, **setting)
    assert all(word in str(raised.value) for word in words), raised.value


def test_draws_follow_the_chances():
    drawn = next_tokens(LOGITS[:1].repeat(20_000, 1), generator=dice())
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 20_000
    # four standard deviations of a share of one half
    assert (shares - LOGITS[0].exp()).abs().max() < 4 * 0.5 / math.sqrt(20_000)


# Generation

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]


def written_by_hand(model: GPTModel, prompt: list[int], steps: int) -> list[int]:
    text = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            window = torch.tensor([text[-model.config.context_length :]])
            text.append(model(window)[0, -1].argmax().item())
    return text


@pytest.mark.parametrize("steps", [0, 1, 5, 30])  # 30 is far beyond the context of 13
def test_greedy_equals_the_loop_by_hand_for_each_row(steps):
    model = talker()
    expected = [written_by_hand(model, prompt, steps) for prompt in PROMPTS]
    assert generate(model, PROMPTS, steps, temperature=0) == expected
    assert [generate(model, [p], steps, temperature=0)[0] for p in PROMPTS] == expected
    new = [row[len(prompt) :] for row, prompt in zip(expected, PROMPTS, strict=True)]
    assert steps < 5 or (len(set(map(tuple, new))) == 4 and len(set(sum(new, []))) > 3)


def test_next_logits_of_unequal_rows_are_each_rows_own():
    model = talker()
    rows = [*PROMPTS, list(range(40))]  # the last is longer than the context
    alone = [model(torch.tensor([row[-13:]]))[0, -1] for row in rows]
    assert torch.allclose(next_logits(model, rows), torch.stack(alone), atol=1e-4)


def test_top_k_of_one_and_tiny_top_p_are_greedy():
    model = talker()
    greedy = generate(model, PROMPTS, 8, temperature=0)
    assert generate(model, PROMPTS, 8, top_k=1) == greedy
    assert generate(model, PROMPTS, 8, top_p=1e-6, temperature=2.0) == greedy


def test_each_row_ends_at_its_own_end_of_text():
    model = talker()
    greedy = generate(model, PROMPTS, 12, temperature=0)
    eos = greedy[0][len(PROMPTS[0]) + 2]  # a token that row 0 writes as its third, if not before
    ended = generate(model, PROMPTS, 12, temperature=0, eos_id=eos)
    for prompt, full, row in zip(PROMPTS, greedy, ended, strict=True):
        new = full[len(prompt) :]
        expected = new[: new.index(eos) + 1] if eos in new else new
        assert row == prompt + expected
    assert len(ended[0]) < len(greedy[0])


def test_an_end_of_text_in_the_prompt_ends_nothing():
    model = talker()
    for eos in range(61):
        free = generate(model, [[eos, 3, eos]], 4, temperature=0)
        if eos not in free[0][3:]:  # else it would end rightly
            assert generate(model, [[eos, 3, eos]], 4, temperature=0, eos_id=eos) == free
            return
    pytest.fail("the model ends every text at once; choose another one for this test")


def test_tensor_in_tensor_out_filled_with_end_of_text():
    model, prompt = talker(), some_ids(3, 4)
    greedy = generate(model, prompt, 9, temperature=0)
    assert greedy.shape == (3, 13) and greedy.dtype == torch.long
    assert torch.equal(greedy[:, :4], prompt)
    eos = greedy[1, 5].item()
    ended = generate(model, prompt, 9, temperature=0, eos_id=eos)
    lists = generate(model, prompt.tolist(), 9, temperature=0, eos_id=eos)
    width = max(map(len, lists))
    assert ended.tolist() == [row + [eos] * (width - len(row)) for row in lists]
    assert len(lists[1]) <= 6
    assert generate(model, prompt.to(torch.int32), 2, temperature=0).dtype == torch.int32


def test_no_prompts_give_no_texts():
    model, none = talker(), torch.zeros(0, 4, dtype=torch.long)
    assert generate(model, [], 5) == []
    assert generate(model, none, 5).shape == (0, 4)


def test_seeds_repeat_and_differ():
    model = talker()
    write = lambda seed: generate(model, PROMPTS, 10, temperature=1.5, generator=dice(seed))
    assert write(1) == write(1)
    assert write(1) != write(2)


def test_without_a_generator_the_global_seed_decides():
    model = talker()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(generate(model, PROMPTS, 10))
    assert results[0] == results[1]


def test_neither_greedy_nor_seeded_text_touches_the_global_randomness():
    model = talker()
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    generate(model, PROMPTS, 5, temperature=0)
    generate(model, PROMPTS, 5, generator=dice())
    assert torch.equal(torch.rand(4), expected)


def test_dropout_is_off_and_every_parts_mode_comes_back():
    model = GPTModel(dataclasses.replace(CONFIG, dropout=0.5), seed=0).train()
    model.blocks[0].eval()  # frozen by its owner
    before = [module.training for module in model.modules()]
    first = generate(model, PROMPTS, 10, temperature=0)
    assert [module.training for module in model.modules()] == before
    assert generate(model.eval(), PROMPTS, 10, temperature=0) == first


def test_modes_and_gradients_come_back_after_an_error():
    model = GPTModel(CONFIG).train()
    with pytest.raises(RuntimeError, match="boom"), evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError("boom")
    assert model.training and model.blocks[1].attention.training and torch.is_grad_enabled()


def test_no_gradient_is_kept():
    logits = next_logits(talker(), PROMPTS)
    assert not logits.requires_grad and logits.dtype == torch.float32


def test_prompts_are_left_as_they_were():
    prompts = copy.deepcopy(PROMPTS)
    generate(talker(), prompts, 5)
    assert prompts == PROMPTS


@pytest.mark.parametrize(
    "prompts, steps, words",
    [
        ([[1], list(range(14))], 1, ["prompt 1", "14 tokens", "context_length=13", "prompt[-13:]"]),
        ([[1], []], 1, ["prompt 1", "[]", "one or more", "end-of-text"]),
        ([1, 2, 3], 1, ["prompt 0 is 1", "goes into a list"]),
        ([[1, 61]], 1, ["from 1 to 61", "vocab_size=61", "tokenizer"]),
        ([[-5]], 1, ["from -5 to -5"]),
        ([[1]], -1, ["max_new_tokens=-1", "0 or more"]),
        (torch.tensor([1, 2]), 1, ["prompt 0 is 1"]),
        (torch.zeros(1, 14, dtype=torch.long), 1, ["14 tokens"]),
        (torch.zeros(2, 0, dtype=torch.long), 1, ["prompt 0 is []"]),
    ],
)
def test_generate_names_what_is_wrong_before_it_begins(prompts, steps, words):
    with pytest.raises(ValueError) as raised:
        generate(talker(), prompts, steps)
    assert all(word in str(raised.value) for word in words), raised.value


def test_stream_yields_what_generate_writes_one_by_one():
    model = talker()
    expected = generate(model, [[1, 2, 3]], 20, temperature=0)[0][3:]
    stream = generate_stream(model, [1, 2, 3], 20, temperature=0)
    assert inspect.isgenerator(stream)
    assert next(stream) == expected[0]
    model.train()  # whoever reads slowly may train in between
    assert [next(stream), *stream] == expected[1:]
    assert model.training
    eos = expected[4]
    ended = list(generate_stream(model, torch.tensor([1, 2, 3]), 20, temperature=0, eos_id=eos))
    assert ended == expected[: expected.index(eos) + 1]
    with pytest.raises(ValueError, match="14 tokens"):
        generate_stream(model, list(range(14)), 5)  # at once, not at the first token


def test_a_model_with_other_dtype_writes_too():
    model = talker().to(torch.bfloat16)
    assert len(generate(model, PROMPTS, 4, generator=dice())[0]) == 7


def test_it_learns_by_heart_and_recites():
    config = GPTConfig(23, 16, 32, 4, 2)
    model, rows = GPTModel(config, seed=0), some_ids(3, 15, config, seed=9)
    rows[:, 0] = torch.tensor([1, 2, 3])  # told apart by the first token
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert torch.equal(generate(model, rows[:, :1], 14, temperature=0), rows)


def test_compiled_models_and_cuda_agree():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model, ids = talker(), some_ids(3, 7)
    assert torch.allclose(model(ids), copy.deepcopy(model).cuda()(ids.cuda()).cpu(), atol=1e-3)
    greedy = generate(model, PROMPTS, 5, temperature=0)
    assert generate(model.cuda(), PROMPTS, 5, temperature=0) == greedy
    assert len(generate(model, PROMPTS, 5, generator=dice())) == 4
