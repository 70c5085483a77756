"""Everything that the appendices define for one another, collected from their notebooks.

Written by `make export` from the cells that begin with `#| export`; a change made here is lost.
Each definition names the notebook and the section that teach it: change it there.
"""

import codecs
import copy
import math
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.previous_chapters import (
    ANSWER_ROOM,
    BPETokenizer,
    FastLinear,
    GPTConfig,
    GPTModel,
    LayerNorm,
    Message,
    TiedHead,
    chat_ids,
    check_messages,
    check_sampling,
    checked_prompts,
    generate,
    next_logits,
    next_tokens,
    sampling_probabilities,
    trim_chat,
)

__all__ = [
    # a_pytorch_primer
    "BIRTHS",
    "Scalar",
    "backpropagate",
    "scalar_tanh",
    # f_fast_inference
    "KVCache",
    "check_cacheable",
    "Place",
    "place_together",
    "bare",
    "BlockParts",
    "run_block",
    "common_length",
    "CachedReader",
    "last_of_each",
    "check_rows_to_read",
    "window",
    "check_overflow",
    "place_chunks",
    "cached_steps",
    "generate_cached",
    "cached_generation",
    "shared_cache_bytes",
    "check_groups",
    "SharedKeysAttention",
    "share_heads",
    "quantise_rows",
    "Int8Linear",
    "Int8Embedding",
    "quantise_int8",
    "stored_bytes",
    "settle",
    "Draft",
    "propose",
    "speculative_round",
    "Speculation",
    "speculative_generate",
    "as_draft",
    "check_speculation",
    "StaticStep",
    # g_user_interface
    "Piece",
    "Deliver",
    "certain",
    "Speech",
    "likeliest",
    "Job",
    "receive_token",
    "take_turn",
    "fail",
    "give_tokens",
    "Writer",
    "fit_messages",
    "check_left",
    "arrivals",
    "work",
    "Service",
    "new_job",
    "put_in_line",
]


# --------------------------------------------------------------------------------------------------
# Appendix A · A PyTorch primer: tensors that remember where they came from
# a_pytorch_primer/a_pytorch_primer.ipynb
# --------------------------------------------------------------------------------------------------


# a_pytorch_primer.ipynb, "A.4 Autograd in twenty lines"
BIRTHS = count()  # numbers each Scalar, so that we can tell the younger from the older


class Scalar:
    """A number that remembers from which numbers it was made, and the slope towards each.

    Raises:
        TypeError: the value is not a number.

    Example:
        >>> a, b = Scalar(2.0), Scalar(3.0)
        >>> backpropagate((a + b) * b)
        >>> b.grad  # 8.0
    """

    # a_pytorch_primer.ipynb, "A.4 Autograd in twenty lines"

    def __init__(self, value: float, parents: tuple[tuple["Scalar", float], ...] = ()) -> None:
        if not isinstance(value, int | float):
            raise TypeError(f"a Scalar holds one number, got {value!r}; wrap a Scalar only once")
        self.value, self.grad, self.parents, self.born = value, 0.0, parents, next(BIRTHS)

    def __add__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value * other.value, ((self, other.value), (other, self.value)))


def backpropagate(result: Scalar) -> None:
    """Add to the `grad` of each number that `result` was made from the slope of `result` there.

    Numbers that were given, not made, keep what they had and gain: call twice, and they count
    twice. Those on the way start at 0 each time.

    Source: reverse-mode differentiation, Linnainmaa (1970).
    """
    # a_pytorch_primer.ipynb, "A.4 Autograd in twenty lines"
    family, waiting = set(), [result]
    while waiting:
        node = waiting.pop()
        if node not in family:
            family.add(node)
            waiting += [parent for parent, _ in node.parents]
    for node in family:
        node.grad = 0.0 if node.parents else node.grad
    result.grad += 1.0
    for node in sorted(family, key=lambda node: node.born, reverse=True):
        for parent, slope in node.parents:
            parent.grad += slope * node.grad


def scalar_tanh(x: Scalar) -> Scalar:
    """Any number, squeezed to between −1 and 1; the slope is 1 − tanh²."""
    # a_pytorch_primer.ipynb, "A third step, and PyTorch's own"
    squeezed = math.tanh(x.value)
    return Scalar(squeezed, ((x, 1.0 - squeezed**2),))


# --------------------------------------------------------------------------------------------------
# Appendix F · Fast inference: the same tokens, sooner
# f_fast_inference/f_fast_inference.ipynb
# --------------------------------------------------------------------------------------------------


class KVCache:
    """Keys and values of the tokens that a model has read, in memory that is taken once.

    `store` is (layers, batch, 2 * key heads, context_length, head_dim): of each row the keys,
    then the values. `ids` are the tokens that they belong to, a list for each row.

    Raises:
        TypeError: the model is no GPTModel.
        ValueError: a batch of less than one row.

    Example:
        >>> KVCache(GPTModel(GPT2_CONFIGS["gpt2"])).num_bytes
        75497472
    """

    # f_fast_inference.ipynb, "F.4 Memory that is taken once"

    def __init__(self, model: GPTModel, batch_size: int = 1) -> None:
        check_cacheable(model, batch_size)
        attention, like = model.blocks[0].attention, model.position_embedding.weight
        self.key_heads = getattr(attention, "num_kv_heads", attention.num_heads)
        shape = (len(model.blocks), batch_size, 2 * self.key_heads, model.config.context_length)
        self.store = like.detach().new_zeros(*shape, attention.head_dim)
        self.ids: list[list[int]] = [[] for _ in range(batch_size)]

    @property
    def num_bytes(self) -> int:
        """What it takes, however much of it is filled."""
        return self.store.numel() * self.store.element_size()

    def keep(self, rows: Sequence[int]) -> None:
        """Let only these rows stay, in this order."""
        self.store = self.store[:, list(rows)]
        self.ids = [self.ids[row] for row in rows]


def check_cacheable(model: nn.Module, batch_size: int) -> None:
    """Raise TypeError or ValueError if there can be no `KVCache` for this."""
    # f_fast_inference.ipynb, "F.4 Memory that is taken once"
    if not isinstance(model, GPTModel):
        raise TypeError(
            f"a cache for a {type(model).__name__}: expected a GPTModel of chapter 4. Other models "
            "keep other things; chapter 4's `generate` works with any."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected 1 or more rows.")


@dataclass(frozen=True)
class Place:
    """Where a chunk of tokens goes in a cache, and what each of them may look at."""

    # f_fast_inference.ipynb, "Where a chunk goes"

    position: Tensor | slice  # of each token, as an index of the position embedding
    seen: int  # so many places of the cache are looked at, from the first
    mask: Tensor | None  # (..., tokens, seen), True where a token may look; None: everywhere
    write: tuple  # index of where its keys go in one layer's store
    real: Tensor | None = None  # which of the chunk's tokens, counted through all rows, are kept


def place_together(start: int, tokens: int, device: torch.device) -> Place:
    """The place of `tokens` more tokens in rows that all hold `start`.

    Example:
        >>> place_together(3, 2, torch.device("cpu")).mask.int().tolist()
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    """
    # f_fast_inference.ipynb, "Where a chunk goes"
    stop, mask = start + tokens, None
    if tokens > 1:
        mask = torch.ones(tokens, stop, dtype=torch.bool, device=device).tril(start)
    where = slice(start, stop)
    return Place(where, stop, mask, (slice(None), slice(None), where))


def bare(part: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a plain layer computes, without the calls around it; any other part as it is."""
    # f_fast_inference.ipynb, "The price of a call"
    if type(part) in (nn.Linear, FastLinear):
        return partial(F.linear, weight=part.weight, bias=part.bias)
    if type(part) is LayerNorm:
        norm = partial(torch.layer_norm, normalized_shape=part.weight.shape, eps=part.eps)
        return partial(norm, weight=part.weight, bias=part.bias)
    if type(part) is TiedHead and type(part.shared[0]) is nn.Embedding:
        return partial(F.linear, weight=part.weight)
    return part


class BlockParts:
    """The six parts of a block that hold weights, each as something to call."""

    # f_fast_inference.ipynb, "The price of a call"

    def __init__(self, block: nn.Module) -> None:
        self.norm1, self.norm2 = bare(block.norm1), bare(block.norm2)
        self.qkv, self.out = bare(block.attention.qkv), bare(block.attention.out)
        self.up, self.down = bare(block.feed_forward.up), bare(block.feed_forward.down)


def run_block(parts: BlockParts, x: Tensor, store: Tensor, place: Place) -> Tensor:
    """One block of a GPTModel, whose tokens look at what one layer's `store` holds.

    Shape:
        x: (batch, tokens, embed_dim); store: (batch, 2 * key heads, context_length, head_dim);
        result: as x. The new keys and values are written into the store.
    """
    # f_fast_inference.ipynb, "The price of a call"
    key_heads = store.shape[1] // 2
    cut = parts.qkv(parts.norm1(x)).view(*x.shape[:2], -1, store.shape[-1]).transpose(1, 2)
    q, new = cut[:, : -2 * key_heads], cut[:, -2 * key_heads :]  # (batch, heads, tokens, head_dim)
    if place.real is not None:
        new = new.transpose(1, 2).flatten(0, 1)[place.real]  # (real tokens, heads, head_dim)
    store[place.write] = new
    seen = store[:, :, : place.seen]
    k, v = seen[:, :key_heads], seen[:, key_heads:]  # (batch, key heads, seen, head_dim)
    grouped = key_heads < q.shape[1]
    mixed = F.scaled_dot_product_attention(q, k, v, place.mask, enable_gqa=grouped)
    x = x + parts.out(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, embed_dim)
    return x + parts.down(F.gelu(parts.up(parts.norm2(x)), approximate="tanh"))


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginnings.

    Example:
        >>> common_length([5, 6, 7, 8], [5, 6, 9])
        2
    """
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:  # in nearly all cases, and quick
        return limit
    return next(i for i in range(limit) if one[i] != other[i])


class CachedReader:
    """A model with a memory: gives the logits after each row, and reads only what is new in it.

    Dropout is off, and there are no gradients. `overflow`: see `window`.
    """

    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"

    def __init__(self, model: GPTModel, batch_size: int = 1, overflow: str = "exact") -> None:
        check_overflow(overflow)
        self.model, self.overflow, self.cache = model, overflow, KVCache(model, batch_size)
        self.parts = [BlockParts(block) for block in model.blocks]
        self.norm, self.head = bare(model.final_norm), bare(model.output_head)

    @torch.inference_mode()
    def logits(self, rows: Sequence[list[int]], last: int = 1) -> Tensor:
        """The logits after each of the `last` tokens of each row: (rows, last, vocab_size)."""
        windows = [window(row, self.model.config.context_length, self.overflow) for row in rows]
        check_rows_to_read(windows, self.cache, last)
        ids = zip(self.cache.ids, windows, strict=True)
        starts = [min(common_length(*pair), len(pair[1]) - last) for pair in ids]
        chunks = [row[start:] for row, start in zip(windows, starts, strict=True)]
        x = last_of_each(self.read(chunks, starts), [len(chunk) for chunk in chunks], last)
        self.cache.ids = [list(row) for row in windows]
        return self.head(self.norm(x)).float()

    def read(self, chunks: list[list[int]], starts: list[int]) -> Tensor:
        """Take in a chunk for each row, from place `starts` on: (rows, longest, embed_dim)."""
        place, token_ids = place_chunks(chunks, starts, self.cache.store)
        x = self.model.token_embedding(token_ids)
        x = x + self.model.position_embedding.weight[place.position]
        for parts, store in zip(self.parts, self.cache.store, strict=True):
            x = run_block(parts, x, store, place)
        return x


def last_of_each(x: Tensor, sizes: Sequence[int], last: int) -> Tensor:
    """The `last` tokens of each row, rows being of these sizes and filled up on the right.

    Shape:
        x: (rows, tokens, embed_dim); result: (rows, last, embed_dim).
    """
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    if min(sizes) == x.shape[1]:  # no filling
        return x[:, -last:]
    return torch.stack([x[i, size - last : size] for i, size in enumerate(sizes)])


def check_rows_to_read(rows: Sequence[list[int]], cache: KVCache, last: int) -> None:
    """Raise ValueError if these rows do not belong to the cache, or are too short."""
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    if len(rows) != len(cache.ids):
        raise ValueError(
            f"{len(rows)} rows, but the cache was made for {len(cache.ids)}. Make a new reader, "
            "or let rows leave with cache.keep(rows)."
        )
    if last < 1 or min(map(len, rows)) < last:
        raise ValueError(
            f"last={last}, and the shortest row has {min(map(len, rows))} tokens: expected 1 or "
            "more, and rows at least as long."
        )


def window(row: list[int], context_length: int, overflow: str = "exact") -> list[int]:
    """What a model reads of a row: all, or the end of it where it has outgrown the context.

    With "exact" the last `context_length` tokens, as in chapter 4. With "half" the window moves
    on by half a context whenever it is full.

    Example:
        >>> window([1, 2, 3, 4, 5], 4), window([1, 2, 3, 4, 5], 4, "half")
        ([2, 3, 4, 5], [3, 4, 5])
    """
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    over = len(row) - context_length
    if over <= 0:
        return row
    step = 1 if overflow == "exact" else max(context_length // 2, 1)
    return row[-(-over // step) * step :]


def check_overflow(overflow: str) -> None:
    """Raise ValueError for an unknown way to go on past the context."""
    # f_fast_inference.ipynb, "F.5 A reader that reads only what is new"
    if overflow not in ("exact", "half"):
        raise ValueError(
            f'overflow={overflow!r}, expected "exact" (as chapter 4 slides its window, no gain '
            'past the context) or "half" (drop half of it at once: quick, other tokens).'
        )


def place_chunks(chunks: list[list[int]], starts: list[int], store: Tensor) -> tuple[Place, Tensor]:
    """Where each row's chunk goes that begins at its own start, and the chunks' ids, filled up.

    Shape:
        ids: (rows, longest chunk).
    """
    # f_fast_inference.ipynb, "Rows of unequal length"
    sizes, device = [len(chunk) for chunk in chunks], store.device
    longest = max(sizes)
    ids = torch.tensor([c + [0] * (longest - len(c)) for c in chunks], device=device)
    if min(sizes) == longest and min(starts) == max(starts):
        return place_together(starts[0], longest, device), ids
    steps = torch.arange(longest, device=device)
    positions = torch.tensor(starts, device=device)[:, None] + steps  # (rows, longest)
    is_real = steps < torch.tensor(sizes, device=device)[:, None]
    real = is_real.flatten().nonzero().flatten()
    seen = max(start + size for start, size in zip(starts, sizes, strict=True))
    mask = torch.arange(seen, device=device) <= positions[:, None, :, None]
    write = (real // longest, slice(None), positions.flatten()[real])
    positions = positions.clamp(max=store.shape[-2] - 1)  # of filling, which has none
    return Place(positions, seen, mask, write, real), ids


def cached_steps(
    model: GPTModel,
    rows: list[list[int]],
    max_new_tokens: int,
    eos_id: int | None,
    overflow: str = "exact",
    **sampling: object,
) -> Iterator[None]:
    """Chapter 4's `generation_steps` with a KV cache: grow `rows` in place, one token a step."""
    # f_fast_inference.ipynb, "F.6 generate, with a memory"
    growing, reader = list(rows), CachedReader(model, max(len(rows), 1), overflow)
    for _ in range(max_new_tokens):
        if not growing:
            return
        chosen = next_tokens(reader.logits(growing)[:, -1], **sampling)
        for row, token in zip(growing, chosen, strict=True):
            row.append(token)
        left = [i for i, row in enumerate(growing) if row[-1] != eos_id]
        if len(left) < len(growing):
            growing = [growing[i] for i in left]
            reader.cache.keep(left)
        yield


def generate_cached(
    model: GPTModel,
    token_ids: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    overflow: str = "exact",
    eos_id: int | None = None,
    **sampling: object,
) -> Tensor | list[list[int]]:
    """Chapter 4's `generate`, with the same settings and the same tokens, sooner.

    `overflow` says what is read once a row has outgrown the context: see `window`.

    Shape:
        token_ids: (batch, tokens), or lists of any lengths; result: as that of `generate`.

    Raises:
        ValueError: as `generate`, or an unknown `overflow`. TypeError: the model is no GPTModel.
    """
    # f_fast_inference.ipynb, "F.6 generate, with a memory"
    check_cacheable(model, 1)
    rows = checked_prompts(token_ids, max_new_tokens, model.config)
    for _ in cached_steps(model, rows, max_new_tokens, eos_id, overflow, **sampling):
        pass
    if not isinstance(token_ids, Tensor) or not rows:
        return token_ids if isinstance(token_ids, Tensor) else rows
    width = max(len(row) for row in rows)
    filled = [row + [eos_id] * (width - len(row)) for row in rows]
    return torch.tensor(filled, dtype=token_ids.dtype, device=token_ids.device)


@contextmanager
def cached_generation() -> Iterator[None]:
    """Inside, everything of the chapters that generates (`reply`, `Chat`, …) uses the cache.

    For good, in one line: `shared.previous_chapters.generation_steps = cached_steps`.

    Example:
        >>> with cached_generation():
        ...     print(*chat.stream("What is the plural? a kite"))
    """
    # f_fast_inference.ipynb, "In the chat"
    chapters = sys.modules[generate.__module__]
    plain = chapters.generation_steps
    chapters.generation_steps = cached_steps
    try:
        yield
    finally:
        chapters.generation_steps = plain


def shared_cache_bytes(
    config: GPTConfig,
    num_kv_heads: int,
    batch_size: int = 1,
    num_tokens: int | None = None,
    bytes_per_number: int = 4,
) -> int:
    """Bytes of a KV cache if the query heads share `num_kv_heads` heads of keys and values.

    Raises:
        ValueError: the query heads cannot be dealt out to so many groups equally.

    Example:
        >>> shared_cache_bytes(GPTConfig(1024, 128, 128, 4, 4), num_kv_heads=1)
        131072
    """
    # f_fast_inference.ipynb, "F.8 What a cache weighs"
    check_groups(config.num_heads, num_kv_heads)
    tokens = batch_size * (config.context_length if num_tokens is None else num_tokens)
    width = num_kv_heads * (config.embed_dim // config.num_heads)
    return 2 * config.num_layers * width * tokens * bytes_per_number


def check_groups(num_heads: int, num_kv_heads: int) -> None:
    """Raise ValueError if `num_heads` query heads cannot share `num_kv_heads` equally."""
    # f_fast_inference.ipynb, "F.8 What a cache weighs"
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        fit = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ValueError(
            f"num_kv_heads={num_kv_heads} with num_heads={num_heads}: expected one of {fit}."
        )


class SharedKeysAttention(nn.Module):
    """Causal attention in which groups of heads share one head of keys and values.

    Shape:
        x: (batch, tokens, embed_dim); result: the same.

    Source: Ainslie et al. (2023), "GQA: Training Generalized Multi-Query Transformer Models".
    """

    # f_fast_inference.ipynb, "Attention with shared keys"

    def __init__(self, embed_dim: int, num_heads: int, num_kv_heads: int, bias: bool) -> None:
        super().__init__()
        check_groups(num_heads, num_kv_heads)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        cut = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        sizes = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        q, k, v = cut.split(sizes, dim=1)  # (batch, heads, tokens, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


def share_heads(model: GPTModel, num_kv_heads: int) -> GPTModel:
    """A copy of `model` whose heads share keys and values in groups, each the group's mean.

    Raises:
        ValueError: the heads cannot be dealt out equally.

    Source: Ainslie et al. (2023), "GQA", section 2.1.
    """
    # f_fast_inference.ipynb, "Attention with shared keys"
    shared, config = copy.deepcopy(model), model.config
    for block in shared.blocks:
        old = block.attention
        has_bias = old.qkv.bias is not None
        sizes = (config.embed_dim, config.num_heads, num_kv_heads, has_bias)
        with torch.random.fork_rng(devices=[]):  # its first weights are overwritten
            new = SharedKeysAttention(*sizes).to(old.qkv.weight)
        for name in ("weight", "bias") if has_bias else ("weight",):
            heads = getattr(old.qkv, name).detach().unflatten(0, (3, config.num_heads, -1))
            groups = heads[1:].unflatten(1, (num_kv_heads, -1)).mean(2)  # keys, values
            parts = [heads[0].flatten(0, 1), groups.flatten(0, 2)]
            getattr(new.qkv, name).data.copy_(torch.cat(parts))
        new.out.load_state_dict(old.out.state_dict())
        block.attention = new
    return shared.train(model.training)


def quantise_rows(weight: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Whole numbers and a scale for each row, so that numbers * scale is nearly `weight`.

    Shape:
        weight: (rows, columns); result: int8 of that shape, and scales (rows, 1).

    Raises:
        ValueError: `bits` not from 2 to 8.
    """
    # f_fast_inference.ipynb, "F.9 Weights in eight bits"
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits}, expected 2 to 8.")
    limit = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / limit
    return (weight / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer with its weights in whole numbers, made from an ordinary one.

    Shape:
        x: (..., features); result: (..., out).
    """

    # f_fast_inference.ipynb, "F.9 Weights in eight bits"

    def __init__(self, linear: nn.Linear, bits: int = 8) -> None:
        super().__init__()
        numbers, scale = quantise_rows(linear.weight.detach(), bits)
        self.register_buffer("numbers", numbers)
        self.register_buffer("scale", scale.squeeze(1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.numbers.to(x.dtype)) * self.scale
        return out if self.bias is None else out + self.bias


class Int8Embedding(nn.Module):
    """An embedding with its vectors in whole numbers; `weight` gives them back as floats.

    Shape:
        ids: any; result: (*ids.shape, embed_dim).
    """

    # f_fast_inference.ipynb, "F.9 Weights in eight bits"

    def __init__(self, embedding: nn.Embedding, bits: int = 8) -> None:
        super().__init__()
        numbers, scale = quantise_rows(embedding.weight.detach(), bits)
        self.register_buffer("numbers", numbers)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:
        """The whole matrix, for the output head that shares it."""
        return self.numbers.to(self.scale.dtype) * self.scale

    def forward(self, ids: Tensor) -> Tensor:
        return self.numbers[ids].to(self.scale.dtype) * self.scale[ids]


def quantise_int8(model: GPTModel, bits: int = 8) -> GPTModel:
    """A copy of `model` for inference, its matrices and token vectors in whole numbers.

    With fewer `bits` the numbers are rounded as if they had so many; they still take a byte each.

    Raises:
        ValueError: `bits` not from 2 to 8.
    """
    # f_fast_inference.ipynb, "F.9 Weights in eight bits"
    small = copy.deepcopy(model)
    for module in list(small.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child, bits))
    small.token_embedding = Int8Embedding(small.token_embedding, bits)
    small.output_head = TiedHead(small.token_embedding)
    return small.eval()


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers: what the model takes in memory and on disk."""
    # f_fast_inference.ipynb, "F.9 Weights in eight bits"
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def settle(
    token: int, p: Tensor, q: Tensor, generator: torch.Generator | None = None
) -> tuple[bool, int]:
    """Whether a token drawn from `q` is kept, and the token that stands there then.

    Over many draws of `token` from q, the tokens that stand are distributed as p.

    Shape:
        p, q: (vocab_size,), chances.

    Source: Leviathan et al. (2023), "Fast Inference from Transformers via Speculative Decoding".
    """
    # f_fast_inference.ipynb, "F.10 Guess ahead, check at once"
    device = "cpu" if generator is None else generator.device
    if float(torch.rand((), generator=generator, device=device)) * float(q[token]) < float(
        p[token]
    ):
        return True, token
    more = (p - q).clamp(min=0).to(device)
    return False, int(torch.multinomial(more, 1, generator=generator))


# f_fast_inference.ipynb, "A round"
Draft = Callable[[list[int]], Tensor]  # ids so far -> logits of the next token, (vocab_size,)


def propose(
    draft: Draft, row: list[int], count: int, generator: torch.Generator | None, **sampling: object
) -> tuple[list[int], list[Tensor]]:
    """`count` tokens that the draft would go on with, and the chances each was drawn from."""
    # f_fast_inference.ipynb, "A round"
    guessed, chances = list(row), []
    for _ in range(count):
        chances.append(sampling_probabilities(draft(guessed), **sampling))
        q = chances[-1] if generator is None else chances[-1].to(generator.device)
        guessed.append(int(torch.multinomial(q, 1, generator=generator)))
    return guessed[len(row) :], chances


def speculative_round(
    reader: CachedReader,
    draft: Draft,
    row: list[int],
    count: int,
    generator: torch.Generator | None = None,
    **sampling: object,
) -> tuple[list[int], int]:
    """The next tokens of `row`, from 1 to count + 1, and how many of the draft's were kept."""
    # f_fast_inference.ipynb, "A round"
    guesses, chances = propose(draft, row, count, generator, **sampling)
    logits = reader.logits([row + guesses], last=count + 1)[0]  # (count + 1, vocab_size)
    wanted = sampling_probabilities(logits, **sampling)
    for i, (token, q) in enumerate(zip(guesses, chances, strict=True)):
        kept, token = settle(token, wanted[i], q.to(wanted.device), generator)
        if not kept:
            return [*guesses[:i], token], i
    return [*guesses, *next_tokens(logits[-1:], generator=generator, **sampling)], count


@dataclass(frozen=True)
class Speculation:
    """A text written by guessing ahead, and how well that went."""

    # f_fast_inference.ipynb, "A round"

    row: list[int]  # the prompt and what was written
    passes: int  # of the large model
    proposed: int  # tokens that the draft offered
    kept: int  # of these


def speculative_generate(
    model: GPTModel,
    draft: GPTModel | Draft,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    num_draft: int = 4,
    eos_id: int | None = None,
    generator: torch.Generator | None = None,
    **sampling: object,
) -> Speculation:
    """Continue one prompt with a draft that guesses ahead; tokens are distributed as `model`'s.

    Raises:
        ValueError: as `generate`; num_draft below 1; or the two do not share a vocabulary.

    Source: Leviathan et al. (2023), "Fast Inference from Transformers via Speculative Decoding".
    """
    # f_fast_inference.ipynb, "A round"
    check_speculation(model, draft, num_draft, **sampling)
    (row,) = checked_prompts([list(prompt)], max_new_tokens, model.config)
    reader, guess = CachedReader(model), as_draft(draft)
    end, passes, proposed, kept = len(row) + max_new_tokens, 0, 0, 0
    while len(row) < end and not (passes and row[-1] == eos_id):
        count = min(num_draft, end - len(row) - 1, model.config.context_length - len(row))
        count = max(count, 0)
        new, good = speculative_round(reader, guess, row, count, generator, **sampling)
        if eos_id in new:
            new = new[: new.index(eos_id) + 1]
        row, passes, proposed, kept = row + new, passes + 1, proposed + count, kept + good
    return Speculation(row, passes, proposed, kept)


def as_draft(draft: GPTModel | Draft) -> Draft:
    """A GPTModel as a draft, with a cache of its own; anything else as it is."""
    # f_fast_inference.ipynb, "A round"
    if not isinstance(draft, GPTModel):
        return draft
    reader = CachedReader(draft)
    return lambda ids: reader.logits([ids])[0, -1]


def check_speculation(
    model: GPTModel, draft: GPTModel | Draft, num_draft: int, **sampling: object
) -> None:
    """Raise ValueError if `draft` cannot guess for `model`, or the settings make no sense."""
    # f_fast_inference.ipynb, "A round"
    if num_draft < 1:
        raise ValueError(f"num_draft={num_draft}, expected 1 or more tokens to guess ahead.")
    if isinstance(draft, GPTModel) and draft.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the draft knows {draft.config.vocab_size} tokens and the model "
            f"{model.config.vocab_size}: both must be trained with the same tokenizer."
        )
    known = dict(temperature=1.0, top_k=None, top_p=None) | sampling
    check_sampling(known["temperature"], known["top_k"], known["top_p"])


class StaticStep:
    """One decode step of fixed shapes, for torch.compile: all of the cache is looked at, masked.

    Shape:
        tokens, positions: (batch,), whole numbers; result: logits (batch, vocab_size).

    Example:
        >>> step = StaticStep(CachedReader(model))
        >>> logits = torch.compile(step)(tokens, positions)
    """

    # f_fast_inference.ipynb, "F.12 Compile it"

    def __init__(self, reader: CachedReader) -> None:
        self.reader, self.store = reader, reader.cache.store
        self.batch = torch.arange(self.store.shape[1], device=self.store.device)
        self.places = torch.arange(self.store.shape[-2], device=self.store.device)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        reader, model, capacity = self.reader, self.reader.model, self.store.shape[-2]
        mask = self.places <= positions[:, None, None, None]  # (batch, 1, 1, capacity)
        write = (self.batch, slice(None), positions)
        every = self.batch  # one token in each row, and all of them are real
        place = Place(positions[:, None], capacity, mask, write, every)
        x = model.token_embedding(tokens[:, None]) + model.position_embedding(place.position)
        for layer, parts in enumerate(reader.parts):
            x = run_block(parts, x, self.store[layer], place)
        return reader.head(reader.norm(x[:, -1])).float()


# --------------------------------------------------------------------------------------------------
# Appendix G · A user interface: one model, many users
# g_user_interface/g_user_interface.ipynb
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """What a user gets of an answer at one step.

    `chances` holds (token id, probability), first the chosen token, then the likeliest; empty
    where nobody asked. `ended` is "" while more is to come, and then "stop" (the model, or a
    stop word), "length", "cancelled" or "error".
    """

    # g_user_interface.ipynb, "G.2 One user's answer"

    text: str = ""
    chances: tuple[tuple[int, float], ...] = ()
    ended: str = ""
    error: str = ""


# g_user_interface.ipynb, "G.2 One user's answer"
Deliver = Callable[[Piece], None]  # tells a user the next piece


def certain(text: str, stop_words: Iterable[str]) -> str:
    """The part of `text` that can be shown whatever comes: nothing in it may yet be cut off.

    Example:
        >>> certain("to the E", ["END"])
        'to the'
    """
    # g_user_interface.ipynb, "G.2 One user's answer"
    held = 0
    for word in stop_words:
        for n in range(held + 1, min(len(word), len(text) + 1)):
            if text.endswith(word[:n]):
                held = n
    return text[: len(text) - held].rstrip()


class Speech:
    """Turns tokens into text as they come: whole letters, no blank edges, up to a stop word."""

    # g_user_interface.ipynb, "G.2 One user's answer"

    def __init__(self, tokenizer: BPETokenizer, stop_words: Sequence[str] = ()) -> None:
        self.vocab, self.stop_words = tokenizer.vocab, tuple(stop_words)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.begun, self.ended = "", False, False

    def add(self, token: int) -> str:
        """The text that this token makes certain."""
        return self._show(self.decoder.decode(self.vocab[token]))

    def rest(self) -> str:
        """What was held back, when no token follows."""
        return self._show(self.decoder.decode(b"", final=True), last=True)

    def _show(self, text: str, last: bool = False) -> str:
        self.held += text
        self.held = self.held if self.begun else self.held.lstrip()
        places = [self.held.find(word) for word in self.stop_words if word in self.held]
        if places:
            self.ended, self.held = True, self.held[: min(places)]
        shown = self.held.rstrip() if last or places else certain(self.held, self.stop_words)
        self.held = "" if last or places else self.held[len(shown) :]
        self.begun = self.begun or bool(shown)
        return shown


def likeliest(logits: Tensor, token: int, how_many: int | None) -> tuple[tuple[int, float], ...]:
    """The chosen token and the `how_many` likeliest, with their chances at temperature 1.

    Shape:
        logits: (vocab_size,). `how_many` None: nothing.
    """
    # g_user_interface.ipynb, "G.2 One user's answer"
    if how_many is None:
        return ()
    chances = logits.softmax(dim=-1)
    best = chances.topk(min(how_many, len(chances))).indices.tolist()
    return tuple((i, chances[i].item()) for i in (token, *best))


@dataclass(eq=False)
class Job:
    """One answer being written, told by `deliver(Piece(…))`; whoever leaves sets `cancelled`.

    Raises ValueError as `check_sampling`."""

    # g_user_interface.ipynb, "G.2 One user's answer"

    row: list[int]  # the prompt; grows
    speech: Speech
    deliver: Deliver
    end_ids: frozenset[int] = frozenset()  # tokens that end the answer
    limit: int = 120  # tokens
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    alternatives: int | None = None  # how many chances are told; None: none at all
    dropped: int = 0  # messages that did not fit
    cancelled: bool = False
    ended: str = ""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, None, self.top_p)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.prompt_tokens = len(self.row)

    @property
    def new_tokens(self) -> int:
        """How many tokens have been written."""
        return len(self.row) - self.prompt_tokens

    def end(self, why: str, error: str = "") -> None:
        """Say that there is no more, once."""
        if not self.ended:
            self.ended = why
            self.deliver(Piece(self.speech.rest(), ended=why, error=error))


def receive_token(job: Job, logits: Tensor) -> None:
    """Choose a token for a job, tell its user, and end the job where it is time."""
    # g_user_interface.ipynb, "G.2 One user's answer"
    sampling = dict(temperature=job.temperature, top_p=job.top_p, generator=job.generator)
    [token] = next_tokens(logits[None], **sampling)
    if token in job.end_ids:
        return job.end("stop")
    job.row.append(token)
    text = job.speech.add(token)
    job.deliver(Piece(text, likeliest(logits, token, job.alternatives)))
    if job.speech.ended:
        job.end("stop")
    elif job.new_tokens >= job.limit:
        job.end("length")


def take_turn(line: deque[Job], seats: int) -> list[Job]:
    """Take from the front of the line those that get a token now; send home who is cancelled."""
    # g_user_interface.ipynb, "G.3 The line"
    turn: list[Job] = []
    while line and len(turn) < seats:
        job = line.popleft()
        if job.cancelled:
            with suppress(Exception):  # nobody may be there to be told
                job.end("cancelled")
        else:
            turn.append(job)
    return turn


def fail(job: Job, error: Exception) -> None:
    """End a job with an error; whether anybody can still be told does not matter."""
    # g_user_interface.ipynb, "G.3 The line"
    told = f"{type(error).__name__}: {error}"
    with suppress(Exception):
        job.end("error", told)
    job.ended = job.ended or "error"


def give_tokens(model: nn.Module, turn: Sequence[Job]) -> None:
    """One pass of the model: a token for each job. Raises nothing; errors end their jobs."""
    # g_user_interface.ipynb, "G.3 The line"
    try:
        rows = next_logits(model, [job.row for job in turn])
    except Exception as error:
        for job in turn:
            fail(job, error)
        return
    for job, logits in zip(turn, rows, strict=True):
        try:
            receive_token(job, logits)
        except Exception as error:
            fail(job, error)


class Writer:
    """Writes many answers at once, fairly: a token a step for those at the front of the line.

    With n jobs in line, each gets a token at least every ceil(n / seats) steps.

    Raises:
        ValueError: fewer than one seat.
    """

    # g_user_interface.ipynb, "G.3 The line"

    def __init__(self, model: nn.Module, seats: int = 16) -> None:
        if seats < 1:
            raise ValueError(f"seats={seats}, expected 1 or more answers in a step")
        self.model, self.seats, self.line = model, seats, deque()

    def add(self, job: Job) -> None:
        """Stand at the end of the line."""
        self.line.append(job)

    def step(self) -> list[Job]:
        """A token for those whose turn it is; returns them."""
        turn = take_turn(self.line, self.seats)
        if turn:
            give_tokens(self.model, turn)
        self.line.extend(job for job in turn if not job.ended)
        return turn


def fit_messages(messages: Sequence[Message], tokenizer: BPETokenizer, room: int) -> list[Message]:
    """As `trim_chat`, at a price that does not grow with what cannot fit anyhow.

    Raises:
        ValueError: as `trim_chat`.
    """
    # g_user_interface.ipynb, "G.4 Too much to read"
    check_messages(messages)
    longest = max(map(len, tokenizer.vocab.values()))
    least = [-(-len(m["content"].strip().encode()) // longest) + 2 for m in messages]
    system = [i for i, m in enumerate(messages) if m["role"] == "system"]
    others = [i for i, m in enumerate(messages) if m["role"] != "system"]
    total, kept = sum(least[i] for i in system), []
    while others and total + least[others[-1]] <= room:
        total += least[others[-1]]
        kept.append(others.pop())
    check_left(total, kept, least[others[-1]] if others else 0, room)
    while others and kept and messages[kept[-1]]["role"] != "user":
        kept.pop()  # half a turn
    chosen = sorted([*system, *kept])
    return trim_chat([messages[i] for i in chosen], tokenizer, room)


def check_left(total: int, kept: Sequence[int], dropped: int, room: int) -> None:
    """Raise ValueError if not even the last message is left, or the system's alone are too long."""
    # g_user_interface.ipynb, "G.4 Too much to read"
    if total > room or (dropped and not kept):
        raise ValueError(
            f"this is too long: at least {total + dropped} tokens with what must stay, and there "
            f"is room for {room}. Say it in fewer words, or in several messages."
        )


def arrivals(inbox: queue.SimpleQueue, wait: bool) -> list[Job | None]:
    """All that is in the inbox; with `wait`, not before there is something."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    found = [inbox.get()] if wait else []
    with suppress(queue.Empty):
        while True:
            found.append(inbox.get_nowait())
    return found


def work(writer: Writer, inbox: queue.SimpleQueue) -> None:
    """Write answers until None arrives; who is in line then is told that the server closes."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    while True:
        found = arrivals(inbox, wait=not writer.line)
        for job in filter(None, found):
            writer.add(job)
        if None in found:
            break
        writer.step()
    for job in writer.line:
        fail(job, RuntimeError("the server is closing"))
    writer.line.clear()


class Service:
    """An assistant for many users: one thread owns the model, anybody may `ask`; `close` ends it.

    `seats` answers grow in one step; at most `most` are under way at a time.
    """

    # g_user_interface.ipynb, "G.5 What if they all come at once?"

    def __init__(
        self,
        model: GPTModel,
        tokenizer: BPETokenizer,
        name: str = "assistant",
        seats: int = 16,
        most: int = 200,
    ) -> None:
        self.model, self.tokenizer, self.name, self.most = model, tokenizer, name, most
        self.inbox, self.lock, self.seeds = queue.SimpleQueue(), threading.Lock(), count()
        self.open_jobs, self.closed = 0, False
        job = (Writer(model, seats), self.inbox)
        self.thread = threading.Thread(target=work, args=job, daemon=True)  # ends with Python
        self.thread.start()

    def ask(self, messages: Sequence[Message], deliver: Deliver, **settings: object) -> Job:
        """Put a question in line; settings and errors as for `new_job` and `put_in_line`.

        `deliver` is called in the service's thread.
        """
        return put_in_line(self, new_job(self, messages, deliver, **settings))

    def close(self) -> None:
        """End all answers and the thread."""
        with self.lock:
            self.closed = True
            self.inbox.put(None)
        self.thread.join()


def new_job(
    service: Service, messages: Sequence[Message], deliver: Deliver, **settings: object
) -> Job:
    """The job; settings as `Job`'s, and `stop_words`. ValueError as `fit_messages` and `Job`."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    context, tokenizer = service.model.config.context_length, service.tokenizer
    kept = fit_messages(messages, tokenizer, context - ANSWER_ROOM)
    row = chat_ids(tokenizer, kept, reply=True)

    def pass_on(piece: Piece) -> None:
        if piece.ended:
            with service.lock:
                service.open_jobs -= 1
        deliver(piece)

    speech = Speech(tokenizer, settings.pop("stop_words", ()))
    settings["limit"] = min(settings.get("limit", 120), context - len(row))
    settings = {"seed": next(service.seeds), "dropped": len(messages) - len(kept)} | settings
    marks = frozenset(tokenizer.special_tokens.values())
    return Job(row, speech, pass_on, marks, **settings)


def put_in_line(service: Service, job: Job) -> Job:
    """Into the inbox. OverflowError: too many are in line; RuntimeError: the service is closed."""
    # g_user_interface.ipynb, "G.5 What if they all come at once?"
    with service.lock:
        if service.closed:
            raise RuntimeError("the server is closing: ask again when it is back")
        if service.open_jobs >= service.most:
            raise OverflowError(
                f"{service.open_jobs} answers are being written, and {service.most} is the most "
                "here: ask again in a moment"
            )
        service.open_jobs += 1
        service.inbox.put(job)
    return job
