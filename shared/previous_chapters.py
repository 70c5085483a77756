"""Everything that the chapters define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    # ch03_attention
    "causal_weights",
    "MultiHeadAttention",
    # ch04_gpt_model
    "GPTConfig",
    "check_config",
    "LayerNorm",
    "GELU",
    "FeedForward",
    "TransformerBlock",
    "initialise",
    "fast_linear",
    "convolution_pays",
    "FastLinear",
    "use_fast_linear",
    "TiedHead",
    "check_token_ids",
    "GPTModel",
    "evaluating",
    "next_logits",
    "sampling_probabilities",
    "check_sampling",
    "draw",
    "generation_steps",
    "check_prompts",
    "generate",
    "GPT2_CONFIGS",
]


# --------------------------------------------------------------------------------------------------
# Chapter 3: Attention
# ch03_attention/ch03_attention.ipynb
# --------------------------------------------------------------------------------------------------


def causal_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention weights, written out: how much each token takes from itself and each one before.

    Shape: `queries`, `keys` (..., tokens, head_dim) -> (..., tokens, tokens); each row sums to 1.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.
    """
    # ch03_attention.ipynb, "Many heads, one projection"
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.size(-1))
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(dim=-1)


class MultiHeadAttention(nn.Module):
    """Causal self-attention with several heads: one fused projection, one fused kernel.

    Shape: (batch, tokens, embed_dim) -> (batch, tokens, embed_dim).
    Raises: ValueError if `num_heads` does not divide `embed_dim`.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.
    """

    # ch03_attention.ipynb, "Many heads, one projection"

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim={embed_dim} cannot be split into num_heads={num_heads} equal parts: "
                "choose num_heads >= 1 that divides embed_dim"
            )
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.out = nn.Linear(embed_dim, embed_dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, num_heads, tokens, head_dim)."""
        head_dim = self.out.in_features // self.num_heads
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, head_dim))
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q, k, v = self.split(x)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, embed_dim)

    def attention_weights(self, x: Tensor) -> Tensor:
        """The weights that forward uses, without dropout: (batch, num_heads, tokens, tokens)."""
        queries, keys, _ = self.split(x)
        return causal_weights(queries, keys)


# --------------------------------------------------------------------------------------------------
# Chapter 4: A GPT, part by part
# ch04_gpt_model/ch04_gpt_model.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GPTConfig:
    """The numbers that fix a GPT's shape. Checked when made; frozen, so that they stay checked.

    Raises:
        ValueError: a number that makes no model. The message says which, and what to do.

    Example:
        >>> GPTConfig(vocab_size=1024, context_length=256, embed_dim=128, num_heads=4, num_layers=4)
    """

    # ch04_gpt_model.ipynb, "The configuration"

    vocab_size: int  # how many different tokens there are
    context_length: int  # how many tokens the model sees at most
    embed_dim: int  # how many numbers stand for one token
    num_heads: int  # attention heads per block; divides embed_dim
    num_layers: int  # blocks
    dropout: float = 0.0  # share of numbers zeroed while training
    qkv_bias: bool = True  # GPT-2 has it

    def __post_init__(self) -> None:
        check_config(self)


def check_config(config: GPTConfig) -> None:
    """Raise ValueError, naming the field, if `config` describes no model that can be built."""
    # ch04_gpt_model.ipynb, "The configuration"
    for name in ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"GPTConfig: {name}={value!r}; expected a whole number, at least 1.")
    if config.embed_dim % config.num_heads:
        fitting = [n for n in range(1, config.embed_dim + 1) if config.embed_dim % n == 0]
        nearest = min(fitting, key=lambda n: abs(n - config.num_heads))
        raise ValueError(
            f"GPTConfig: embed_dim={config.embed_dim} cannot be shared equally by "
            f"num_heads={config.num_heads}; choose a divisor of embed_dim, such as "
            f"num_heads={nearest}."
        )
    if not isinstance(config.dropout, int | float) or not 0 <= config.dropout < 1:
        raise ValueError(
            f"GPTConfig: dropout={config.dropout!r}; expected a share from 0 up to below 1, "
            "such as 0.1. Use 0 for none."
        )
    if not isinstance(config.qkv_bias, bool):
        raise ValueError(f"GPTConfig: qkv_bias={config.qkv_bias!r}; expected True or False.")


class LayerNorm(nn.Module):
    """Give every token's vector mean 0 and variance 1, then a learned scale and shift.

    Shape:
        x: (..., embed_dim); result: the same.

    Source: Ba, Kiros and Hinton (2016), "Layer Normalization".
    """

    # ch04_gpt_model.ipynb, "Parts"

    def __init__(self, embed_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class GELU(nn.Module):
    """x times the chance that a standard normal number is below x; GPT-2's tanh form of it.

    Shape:
        x: any; result: the same.

    Source: Hendrycks and Gimpel (2016), "Gaussian Error Linear Units", section 2.
    """

    # ch04_gpt_model.ipynb, "Parts"

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers with a GELU between: each token by itself, four times wider inside.

    Shape:
        x: (..., embed_dim); result: the same.
    """

    # ch04_gpt_model.ipynb, "Parts"

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(embed_dim, 4 * embed_dim)
        self.gelu = GELU()
        self.down = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each reads a normalised copy and adds to the stream.

    Shape:
        x: (batch, tokens, embed_dim); result: the same.
    """

    # ch04_gpt_model.ipynb, "Parts"

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.embed_dim)
        self.attention = MultiHeadAttention(
            config.embed_dim, config.num_heads, dropout=config.dropout, qkv_bias=config.qkv_bias
        )
        self.norm2 = LayerNorm(config.embed_dim)
        self.feed_forward = FeedForward(config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


def initialise(model: nn.Module, num_layers: int, generator: torch.Generator | None = None) -> None:
    """Fill `model` with GPT-2's starting weights, in place.

    Weights are normal with spread 0.02, biases 0. The two layers of each block that write to the
    residual stream (`attention.out`, `feed_forward.down`) get 0.02 / sqrt(2 * num_layers).

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", 2.3.
    """
    # ch04_gpt_model.ipynb, "Parts"
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = name.endswith(("attention.out", "feed_forward.down"))
            std = 0.02 / (2 * num_layers) ** 0.5 if writes else 0.02
            nn.init.normal_(module.weight, std=std, generator=generator)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)`; on AVX-512 CPUs computed as a convolution of width one.

    PyTorch sends the two to different libraries: linear layers to MKL, which holds back on
    processors not made by Intel, convolutions to oneDNN, which does not.

    Shape:
        x: (..., features); weight: (out, features); result: (..., out).
    """
    # ch04_gpt_model.ipynb, "Parts"
    large = x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 3 and len(x) >= 16
    if not large or torch.compiler.is_compiling() or not convolution_pays():
        return F.linear(x, weight, bias)
    image = x[:, :, None].permute(0, 3, 1, 2)  # (batch, features, tokens, 1), nothing is moved
    out = F.conv2d(image, weight[:, :, None, None], bias)  # (batch, out, tokens, 1)
    return out.permute(0, 2, 3, 1)[:, :, 0]  # (batch, tokens, out)


@cache
def convolution_pays() -> bool:
    """Whether this CPU has AVX-512 and PyTorch its library for it."""
    # ch04_gpt_model.ipynb, "Parts"
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return avx512 and torch.backends.mkldnn.is_available()


class FastLinear(nn.Linear):
    """`nn.Linear` with the same weights and the same results, through `fast_linear`."""

    # ch04_gpt_model.ipynb, "Parts"

    def forward(self, x: Tensor) -> Tensor:
        return fast_linear(x, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Let every plain `nn.Linear` in `model` compute as `FastLinear`; weights stay as they are."""
    # ch04_gpt_model.ipynb, "Parts"
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


class TiedHead(nn.Module):
    """Score every token by its dot product with x; the matrix is the token embedding's own.

    The embedding stands in a tuple, where PyTorch does not look for parameters: so the matrix is
    counted, trained and saved once, and no way of copying or loading a model can part the two.

    Shape:
        x: (..., embed_dim); result: (..., vocab_size).

    Source: Press and Wolf (2017), "Using the Output Embedding to Improve Language Models".
    """

    # ch04_gpt_model.ipynb, "Parts"

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.shared = (embedding,)

    @property
    def weight(self) -> nn.Parameter:
        return self.shared[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return fast_linear(x, self.weight)


def check_token_ids(token_ids: Tensor, config: GPTConfig) -> None:
    """Raise ValueError if a model of `config` cannot read `token_ids`.

    The ids' range is looked at on the CPU only: on a GPU that would make it wait at every step.
    """
    # ch04_gpt_model.ipynb, "The model"
    if token_ids.dim() != 2 or token_ids.is_floating_point():
        raise ValueError(
            f"token_ids has shape {tuple(token_ids.shape)} and type {token_ids.dtype}; "
            "expected whole numbers of shape (batch, tokens). For one text: token_ids[None]."
        )
    if not 1 <= token_ids.shape[1] <= config.context_length:
        raise ValueError(
            f"token_ids has {token_ids.shape[1]} tokens a row; this model reads 1 to "
            f"context_length={config.context_length}. Cut the text, or build a model with a "
            "longer context_length."
        )
    if token_ids.device.type == "cpu" and not torch.compiler.is_compiling() and len(token_ids):
        low, high = int(token_ids.min()), int(token_ids.max())
        if low < 0 or high >= config.vocab_size:
            raise ValueError(
                f"token_ids has ids from {low} to {high}; this model knows 0 to "
                f"{config.vocab_size - 1} (vocab_size={config.vocab_size}). Do tokenizer and "
                "model belong together?"
            )


class GPTModel(nn.Module):
    """A GPT: embeddings, `num_layers` blocks, a last norm, and a head tied to the embedding.

    Shape:
        token_ids: (batch, tokens), at most context_length tokens;
        result: logits (batch, tokens, vocab_size).

    A `seed` makes the starting weights repeatable.
    """

    # ch04_gpt_model.ipynb, "The model"

    def __init__(self, config: GPTConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            self.token_embedding = nn.Embedding(config.vocab_size, config.embed_dim)
            self.position_embedding = nn.Embedding(config.context_length, config.embed_dim)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_layers))
            self.final_norm = LayerNorm(config.embed_dim)
            self.output_head = TiedHead(self.token_embedding)
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            initialise(self, config.num_layers, generator)
        use_fast_linear(self)

    def forward(self, token_ids: Tensor) -> Tensor:
        check_token_ids(token_ids, self.config)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.dropout(self.token_embedding(token_ids) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)  # (batch, tokens, embed_dim)
        return self.output_head(self.final_norm(x))  # (batch, tokens, vocab_size)

    def num_parameters(self) -> int:
        """How many numbers are learned; the tied matrix counts once."""
        return sum(p.numel() for p in self.parameters())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside: dropout off and no gradients. Afterwards every part's mode is as it was.

    Example:
        >>> with evaluating(model):
        ...     logits = model(token_ids)
    """
    # ch04_gpt_model.ipynb, "Generation"
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def next_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The logits for the token after each row; rows may differ in length.

    Each row's last context_length tokens are read. Shorter rows are padded on the right, where
    the causal mask keeps the padding from being seen.

    Shape:
        result: (rows, vocab_size).
    """
    # ch04_gpt_model.ipynb, "Generation"
    windows = [list(row[-model.config.context_length :]) for row in rows]
    width = max(len(window) for window in windows)
    padded = [window + [0] * (width - len(window)) for window in windows]
    last = [len(window) - 1 for window in windows]
    device = next(model.parameters()).device
    with evaluating(model):
        logits = model(torch.tensor(padded, device=device))  # (rows, width, vocab_size)
    return logits[range(len(rows)), last].float()  # (rows, vocab_size)


def sampling_probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Turn logits into the chances from which the next token is drawn.

    Divide by `temperature` (0: all on the best), keep the `top_k` best, of these the fewest whose
    chances reach `top_p`, and make the rest sum to one again.

    Shape:
        logits: (..., vocab_size); result: the same.

    Source for top_p: Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration".
    """
    # ch04_gpt_model.ipynb, "Generation"
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    ordered, order = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[..., top_k:] = -torch.inf
    probs = ordered.softmax(dim=-1)
    if top_p is not None:
        before = probs.cumsum(dim=-1) - probs  # what the better ones already have
        probs = probs.masked_fill(before >= top_p, 0.0)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return torch.empty_like(probs).scatter_(-1, order, probs)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError, naming the setting, if nothing could be drawn with it."""
    # ch04_gpt_model.ipynb, "Generation"
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature={temperature}; expected 0 (always the best token) or more, such as 0.8."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(
            f"top_k={top_k}; expected at least 1 token to choose from, or None for all of them."
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(
            f"top_p={top_p}; expected a share above 0 and at most 1, or None to keep every token."
        )


def draw(probs: Tensor, generator: torch.Generator | None = None) -> list[int]:
    """Draw one token per row.

    Shape:
        probs: (rows, vocab_size).
    """
    # ch04_gpt_model.ipynb, "Generation"
    if generator is not None:
        probs = probs.to(generator.device)
    return torch.multinomial(probs, 1, generator=generator).squeeze(1).tolist()


def generation_steps(
    model: nn.Module,
    rows: list[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[None]:
    """Grow `rows` in place by one token a step; a row that drew `eos_id` grows no more."""
    # ch04_gpt_model.ipynb, "Generation"
    growing = list(rows)
    for _ in range(max_new_tokens):
        if not growing:
            return
        probs = sampling_probabilities(next_logits(model, growing), temperature, top_k, top_p)
        for row, token in zip(growing, draw(probs, generator), strict=True):
            row.append(token)
        growing = [row for row in growing if row[-1] != eos_id]
        yield


def check_prompts(prompts: list[list[int]], max_new_tokens: int, config: GPTConfig) -> None:
    """Raise ValueError if a model of `config` cannot continue every prompt."""
    # ch04_gpt_model.ipynb, "Generation"
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens}; expected 0 or more.")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, list | tuple) or not prompt:
            raise ValueError(
                f"prompt {number} is {prompt!r}; expected a list of at least one token id. "
                "To start from nothing, begin with the end-of-text token."
            )
        if len(prompt) > config.context_length:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, and the model reads at most "
                f"context_length={config.context_length}. Keep its end: prompt[-n:] with "
                f"n={config.context_length} or less."
            )
        if min(prompt) < 0 or max(prompt) >= config.vocab_size:
            raise ValueError(
                f"prompt {number} has ids from {min(prompt)} to {max(prompt)}; this model knows 0 "
                f"to {config.vocab_size - 1} (vocab_size={config.vocab_size}). Do tokenizer and "
                "model belong together?"
            )


def generate(
    model: nn.Module,
    token_ids: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    eos_id: int | None = None,
    **sampling,
) -> Tensor | list[list[int]]:
    """Continue each prompt by up to `max_new_tokens`, stopping a row after `eos_id`.

    `sampling`: temperature (0 is greedy), top_k, top_p, generator.

    Shape:
        token_ids: (batch, tokens), or a list of lists of any lengths;
        result: of the same kind, prompts included. In a tensor, rows that ended early are
        filled up with eos_id.
    """
    # ch04_gpt_model.ipynb, "Generation"
    is_tensor = isinstance(token_ids, Tensor)
    rows = token_ids.tolist() if is_tensor else token_ids
    check_prompts(rows, max_new_tokens, model.config)
    rows = [list(row) for row in rows]
    for _ in generation_steps(model, rows, max_new_tokens, eos_id=eos_id, **sampling):
        pass
    if not is_tensor:
        return rows
    width = max(len(row) for row in rows)
    filled = [row + [eos_id] * (width - len(row)) for row in rows]
    return torch.tensor(filled, device=token_ids.device)


# ch04_gpt_model.ipynb, "Generation"
GPT2_CONFIGS = {
    "gpt2": GPTConfig(50257, 1024, 768, 12, 12),
    "gpt2-medium": GPTConfig(50257, 1024, 1024, 16, 24),
    "gpt2-large": GPTConfig(50257, 1024, 1280, 20, 36),
    "gpt2-xl": GPTConfig(50257, 1024, 1600, 25, 48),
}
