"""Attention: values against references, causality, dropout, gradients, errors, devices."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shared.previous_chapters import MultiHeadAttention, causal_weights, head_width

# (batch, tokens, embed_dim, num_heads): no two axes alike wherever that is possible
SHAPES = [
    (1, 1, 4, 1),
    (2, 7, 12, 3),
    (3, 5, 21, 7),
    (1, 33, 10, 2),
    (4, 2, 15, 15),
    (5, 130, 8, 1),
]


def made(embed_dim, num_heads, seed=0, dtype=torch.float32, **options):
    """A module whose numbers come from `seed`, with biases that are not zero."""
    module = MultiHeadAttention(embed_dim, num_heads, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) / math.sqrt(embed_dim)
            )
    return module.to(dtype)


def drawn(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_loops(module, x):
    """Attention as on the whiteboard, one number at a time; reads only the parameters."""
    batch, tokens, embed_dim = x.shape
    width = embed_dim // module.num_heads
    weight, bias = module.qkv.weight, module.qkv.bias
    outputs = torch.zeros_like(x)
    for b in range(batch):
        rows = [weight @ x[b, t] + (0 if bias is None else bias) for t in range(tokens)]
        for i in range(tokens):
            glued = []
            for head in range(module.num_heads):
                starts = [part * embed_dim + head * width for part in range(3)]
                query, key, value = (slice(start, start + width) for start in starts)
                scores = [
                    sum(rows[i][query] * rows[j][key]) / math.sqrt(width) for j in range(i + 1)
                ]
                powers = [torch.exp(score - max(scores)) for score in scores]
                glued.append(sum(p * rows[j][value] for j, p in enumerate(powers)) / sum(powers))
            outputs[b, i] = module.out.weight @ torch.cat(glued) + module.out.bias
    return outputs


# Values


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] < 40])
def test_equals_attention_written_with_loops(shape, qkv_bias):
    batch, tokens, embed_dim, num_heads = shape
    module = made(embed_dim, num_heads, dtype=torch.float64, qkv_bias=qkv_bias)
    x = drawn(batch, tokens, embed_dim, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), by_loops(module, x), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch_multihead_attention_with_the_same_parameters(shape):
    batch, tokens, embed_dim, num_heads = shape
    module = made(embed_dim, num_heads)
    reference = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": module.qkv.weight,
            "in_proj_bias": module.qkv.bias,
            "out_proj.weight": module.out.weight,
            "out_proj.bias": module.out.bias,
        }
    )
    x = drawn(batch, tokens, embed_dim)
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    expected, weights = reference(x, x, x, attn_mask=later, average_attn_weights=False)
    torch.testing.assert_close(module(x), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(module.attention_weights(x), weights, atol=1e-6, rtol=1e-5)


def test_equals_torch_multihead_attention_in_its_gradients():
    module = made(12, 3)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    reference.in_proj_weight.data.copy_(module.qkv.weight.data)
    reference.in_proj_bias.data.copy_(module.qkv.bias.data)
    reference.out_proj.load_state_dict(module.out.state_dict())
    x, later = drawn(2, 7, 12), torch.ones(7, 7, dtype=torch.bool).triu(1)
    direction = drawn(2, 7, 12, seed=2)
    (module(x) * direction).sum().backward()
    (reference(x, x, x, attn_mask=later)[0] * direction).sum().backward()
    torch.testing.assert_close(module.qkv.weight.grad, reference.in_proj_weight.grad)
    torch.testing.assert_close(module.qkv.bias.grad, reference.in_proj_bias.grad)
    torch.testing.assert_close(module.out.weight.grad, reference.out_proj.weight.grad)


def test_gradients_agree_with_finite_differences():
    module = made(6, 2, dtype=torch.float64)
    x = drawn(2, 5, 6, dtype=torch.float64).requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def output(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters))


def test_the_whiteboard_example():
    """Queries and keys whose scores are log 2 apart: shares 1/4, 1/4, 1/2, by hand."""
    scale = math.sqrt(2) * math.log(2)  # undoes √head_dim and turns powers of e into powers of 2
    queries = torch.tensor([[1.0, 1.0]] * 3) * scale
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 4, 1 / 4, 1 / 2]])
    torch.testing.assert_close(causal_weights(queries, keys), expected)


# What it may see


@pytest.mark.parametrize("shape", SHAPES)
def test_no_output_depends_on_a_later_token(shape):
    batch, tokens, embed_dim, num_heads = shape
    module = made(embed_dim, num_heads).eval()
    x = drawn(batch, tokens, embed_dim)
    with torch.no_grad():
        before = module(x)
        for j in sorted({0, tokens // 2, tokens - 1}):
            changed = x.clone()
            changed[:, j] = 100 * drawn(batch, embed_dim, seed=j)
            after = module(changed)
            assert torch.equal(after[:, :j], before[:, :j]), f"token {j} is seen before it"
            assert not torch.isclose(after[:, j], before[:, j]).all(), f"token {j} is ignored"


def test_each_text_of_a_batch_is_alone():
    module = made(12, 3)
    x = drawn(4, 6, 12)
    changed = x.clone()
    changed[2] += 1.0
    moved = (module(x) != module(changed)).flatten(1).any(1)
    assert moved.tolist() == [False, False, True, False]


def test_a_beginning_gives_the_same_as_within_the_longer_text():
    module = made(14, 2)
    x = drawn(2, 9, 14)
    for tokens in range(1, 10):
        torch.testing.assert_close(module(x[:, :tokens]), module(x)[:, :tokens])


def test_the_last_token_is_blind_to_the_order_of_the_earlier_ones():
    module = made(10, 5)
    x = drawn(2, 8, 10)
    shuffled = x[:, [3, 0, 6, 2, 5, 1, 4, 7]]
    torch.testing.assert_close(module(shuffled)[:, -1], module(x)[:, -1])


# attention_weights


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_weights_are_shares_and_what_forward_uses(shape):
    batch, tokens, embed_dim, num_heads = shape
    module = made(embed_dim, num_heads)
    x = drawn(batch, tokens, embed_dim)
    weights = module.attention_weights(x)
    assert weights.shape == (batch, num_heads, tokens, tokens)
    assert (weights >= 0).all() and not weights.triu(1).any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(batch, num_heads, tokens))
    values = module.qkv(x)[..., 2 * embed_dim :].view(batch, tokens, num_heads, -1)
    mixed = torch.einsum("bhij,bjhd->bihd", weights, values).reshape(x.shape)
    torch.testing.assert_close(module(x), module.out(mixed), atol=2e-6, rtol=1e-5)


def test_attention_weights_are_free_of_dropout():
    module, x = made(12, 3, dropout=0.5).train(), drawn(2, 7, 12)
    assert torch.equal(module.attention_weights(x), module.eval().attention_weights(x))


def test_causal_weights_takes_any_axes_in_front():
    queries, keys = drawn(2, 3, 4, 5, 6), drawn(2, 3, 4, 5, 6, seed=2)
    weights = causal_weights(queries, keys)
    assert weights.shape == (2, 3, 4, 5, 5)
    torch.testing.assert_close(weights[1, 2, 3], causal_weights(queries[1, 2, 3], keys[1, 2, 3]))


def test_large_scores_do_not_overflow():
    queries = torch.full((1, 3, 4), 1e4)
    weights = causal_weights(queries, queries)
    assert weights.isfinite().all() and weights[0, 0, 0] == 1.0


# Dropout


def test_dropout_acts_in_training_only():
    x = drawn(2, 7, 12)
    dropping, plain = made(12, 3, dropout=0.5), made(12, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropping.train()
        assert not torch.equal(dropping(x), dropping(x))
    dropping.eval()
    assert torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping(x), plain(x))


def test_dropout_zero_changes_nothing_in_training():
    x, module = drawn(2, 7, 12), made(12, 3, dropout=0.0)
    assert torch.equal(module.train()(x), module.eval()(x))


def test_dropout_keeps_the_mean():
    module, x = made(6, 2, dropout=0.3, dtype=torch.float64), drawn(1, 4, 6, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = module.train()(x.expand(20_000, -1, -1))
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - module.eval()(x)[0]).abs() < 5 * error + 1e-12).all()


# Configuration and bad input


@pytest.mark.parametrize("embed_dim, num_heads", [(10, 4), (7, 2), (4, 8), (6, 0), (6, -2), (0, 1)])
def test_a_width_that_cannot_be_shared_out_is_refused(embed_dim, num_heads):
    with pytest.raises(ValueError) as caught:
        MultiHeadAttention(embed_dim, num_heads)
    message = str(caught.value)
    assert f"embed_dim={embed_dim}" in message and f"num_heads={num_heads}" in message
    assert "choose" in message


def test_head_width():
    assert head_width(768, 12) == 64
    assert head_width(5, 5) == 1


def test_parameters_have_the_names_and_shapes_that_other_code_relies_on():
    shapes = {name: tuple(p.shape) for name, p in MultiHeadAttention(12, 3).named_parameters()}
    assert shapes == {
        "qkv.weight": (36, 12),
        "qkv.bias": (36,),
        "out.weight": (12, 12),
        "out.bias": (12,),
    }
    assert MultiHeadAttention(12, 3, qkv_bias=False).qkv.bias is None


def test_an_empty_text_stays_empty():
    assert made(12, 3)(torch.zeros(2, 0, 12)).shape == (2, 0, 12)


# Number formats, compilation and devices


@pytest.mark.parametrize("tokens", [1, 7])
def test_bfloat16_on_cpu(tokens):
    module, x = made(12, 3), drawn(2, tokens, 12)
    expected = module(x)
    got = module.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)
    rows = module.attention_weights(x.to(torch.bfloat16)).float().sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows), atol=0.02, rtol=0)


def test_autocast_on_cpu_keeps_the_parameters_in_float32():
    module, x = made(12, 3), drawn(2, 7, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16 and module.qkv.weight.grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), module(x), atol=0.05, rtol=0.05)


def test_the_fused_kernel_is_used_and_no_table_is_kept():
    """For learning, forward keeps memory that grows like the text, not like its square."""

    def kept(tokens):
        sizes = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        module, x = made(8, 2), drawn(1, tokens, 8)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            module(x).sum()
        return sum(sizes.values())

    assert kept(1024) < 2.2 * kept(512)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_gives_what_the_cpu_gives(shape):
    batch, tokens, embed_dim, num_heads = shape
    module, x = made(embed_dim, num_heads), drawn(batch, tokens, embed_dim)
    expected, weights = module(x), module.attention_weights(x)
    module, x = module.cuda(), x.cuda()
    torch.testing.assert_close(module(x).cpu(), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(module.attention_weights(x).cpu(), weights, atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_in_half_precision_forward_and_backward(dtype):
    module, x = made(64, 4), drawn(2, 129, 64)
    expected = module(x)
    module, x = module.to("cuda", dtype), x.to("cuda", dtype).requires_grad_()
    output = module(x)
    output.float().sum().backward()
    torch.testing.assert_close(output.float().cpu(), expected, atol=0.05, rtol=0.05)
    assert x.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_no_output_depends_on_a_later_token():
    module, x = made(64, 4).cuda().eval(), drawn(2, 65, 64).cuda()
    changed = x.clone()
    changed[:, 40] += 10.0
    with torch.no_grad():
        assert torch.equal(module(x)[:, :40], module(changed)[:, :40])


def test_scaled_dot_product_attention_is_what_we_think_it_is():
    """The kernel and the written-out form, on one odd shape."""
    queries, keys, values = (drawn(2, 3, 11, 5, seed=seed) for seed in range(3))
    written_out = causal_weights(queries, keys) @ values
    kernel = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(kernel, written_out, atol=1e-6, rtol=1e-5)
