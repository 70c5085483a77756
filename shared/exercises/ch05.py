"""Checks and quick questions of chapter 5: pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

from shared.exercises.checking import Wrong, exercise, expect, expect_same, expect_tensor
from shared.exercises.questions import question, right, wrong
from shared.previous_chapters import GPTConfig, GPTModel

IGNORED = -100
T95 = dict(zip(range(2, 8), (12.706, 4.303, 3.182, 2.776, 2.571, 2.447), strict=True))


def as_number(given: object, what: str) -> float:
    """A number, or a tensor that holds a single one, as a float."""
    if isinstance(given, torch.Tensor) and given.numel() == 1:
        given = given.item()
    if not isinstance(given, Real) or isinstance(given, bool):
        raise Wrong(f"{what}: a {type(given).__name__}, expected a single number.")
    expect(math.isfinite(given), f"{what}: {given}, expected a finite number.")
    return float(given)


def close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-4 * max(1.0, abs(other))


def settle(given: object, wanted: float, mistakes: Iterable[tuple[float, str]], what: str) -> None:
    """Raise `Wrong` unless the number is the wanted one; a known mistake is told by name."""
    number = as_number(given, what)
    if close(number, wanted):
        return
    for value, told in mistakes:
        expect(not close(number, value), told)
    raise Wrong(f"{what}: {number:.4g}, expected {wanted:.4g}.")


# 5.1


@exercise("5.1", "Bits per byte")
def bits_per_byte(dice, answer):
    """`answer(logits, targets, vocab) -> float`; some places ask nothing, one token is empty."""
    vocab = {0: b"the", 1: b" cat", 2: b"s", 3: b"?"}
    chances = torch.tensor([[1 / 2, 1 / 6, 1 / 6, 1 / 6], [1 / 4, 1 / 4, 1 / 4, 1 / 4]])
    chances = torch.stack([chances[0], chances[1], chances[0][[1, 2, 0, 3]]])[None]
    hand = answer(chances.log(), torch.tensor([[0, 1, 2]]), dict(vocab))
    each = "this is the mean of each token's own bits per byte, so a token of one byte counts as "
    each += "much as one of four. Add up the bits, add up the bytes, and divide once."
    settle(
        hand,
        0.5,
        [
            ((1 / 3 + 2 / 4 + 1) / 3, each),
            (0.5 * math.log(2), "these are nats per byte; a bit is ln 2 = 0.69 nats."),
            (0.5 * math.log(2) ** 2, "to get bits from nats, divide by ln 2; you multiplied."),
            (4 / 3, "these are bits per token. Divide by the bytes that the targets write."),
            (4 / 3 * math.log(2), "these are nats per token."),
        ],
        "the example with 4 bits and 8 bytes",
    )
    words = ("", "a", " the", "é", " kite", "wörter", ".")
    vocab = {i: word.encode() for i, word in enumerate(words)} | {7: b"\xe2\x80"}
    logits = 2 * torch.randn(3, 7, 8, generator=dice)
    targets = torch.randint(8, (3, 7), generator=dice)
    targets[0, 4:], targets[2, 6], targets[1, :3] = IGNORED, IGNORED, torch.tensor([0, 5, 3])
    asked = targets != IGNORED
    bits = -logits.double().log_softmax(-1)[asked].gather(1, targets[asked][:, None]) / math.log(2)
    came = targets[asked].tolist()
    size = sum(len(vocab[i]) for i in came)
    wanted = bits.sum().item() / size
    given = answer(logits.clone(), targets.clone(), dict(vocab))
    other = torch.where(asked[..., None], logits, logits + torch.arange(8.0))
    again = answer(other, targets.clone(), dict(vocab))
    expect(
        close(as_number(given, "your result"), as_number(again, "your result")),
        "other logits at a place that asks nothing (target -100) change your result.",
    )
    ends = torch.tensor(came) == 0
    letters = "you divide by characters; é is one character and two bytes. `len` of bytes counts."
    mistakes = [
        (
            bits[~ends].sum().item() / size,
            "the surprise at the empty token is missing: it writes no byte, and has to be "
            "guessed all the same.",
        )
    ]
    for errors in ("replace", "ignore"):
        length = sum(len(vocab[i].decode(errors=errors)) for i in came)
        mistakes.append((bits.sum().item() / length, letters))
    spent, shares = torch.zeros(3, 7, dtype=torch.float64), []
    spent[asked] = bits[:, 0]
    for row, paid in zip(targets.tolist(), spent.sum(1).tolist(), strict=True):
        shares.append(paid / sum(len(vocab[i]) for i in row if i != IGNORED))
    each = "this is the mean over the rows; a short row would count as much as a long one."
    mistakes.append((sum(shares) / 3, each))
    settle(given, wanted, mistakes, "a batch with places that ask nothing")
    return "Now models with different tokenizers can be compared."


# 5.2

READERS = ("knows nothing", "counts letters", "sees one letter", "has understood")
FLOORS = (
    math.log(12),
    math.log(8),
    -9 / 16 * math.log(9 / 16) - 7 / 16 * math.log(1 / 16),
    math.log(8) / 2,
)
THINK = (
    "who knows nothing shares one chance out among all tokens of the vocabulary, also among those "
    "that never come.",
    "counting shows which letters come at all, and that they come equally often; nothing more.",
    "who sees only the last letter cannot know whether a repetition is due. Work out the chance "
    "of the same letter again: half of the time it must come, half of the time it may.",
    "for half of the questions there is nothing to guess; the other half is a fair die.",
)


@exercise("5.2", "How low can it go?")
def floors(dice, given):
    """Four losses in nats, worked out beforehand."""
    if isinstance(given, Mapping):
        given = list(given.values())
    if isinstance(given, torch.Tensor):
        given = given.tolist()
    expect(
        isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 4,
        "expected a list of four numbers, one for each reader.",
    )
    for name, said, true, think in zip(READERS, given, FLOORS, THINK, strict=True):
        said = as_number(said, f"the one who {name}")
        if abs(said - true) < 0.012:
            continue
        for value, unit in ((true / math.log(2), "bits"), (math.exp(true), "a perplexity")):
            expect(abs(said - value) > 0.012, f"the one who {name}: {unit}; nats are asked for.")
        expect(said >= 0, f"the one who {name}: {said:g}, but no mean surprise is below 0.")
        raise Wrong(f"the one who {name} does not pay {said:.4g}: {think}")
    return "You know where each of them must stop, before anybody has trained."


# 5.3


class Reciter(nn.Module):
    """A model that scores the next token by the present one alone, by a table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.table[token_ids]


@exercise("5.3", "A bug hunt: it skips letters")
def shifted_loss(dice, answer):
    """`answer(model, rows) -> loss`; models whose habits are known are graded by it."""
    letters = 11
    start = torch.randint(letters, (4, 1), generator=dice)
    rows = (start + torch.arange(9)) % letters  # each the alphabet, from somewhere on

    def charged(ahead: int) -> float:
        table = 12 * torch.eye(letters).roll(ahead, dims=1)
        return as_number(answer(Reciter(table), rows.clone()), "your loss")

    pays = {ahead: charged(ahead) for ahead in (1, 2, 0)}
    expect(
        max(pays.values()) - min(pays.values()) > 1e-3,
        "your loss is the same whatever the model does.",
    )
    skips = "a model that leaves out every second letter (a c e g …) pays next to nothing with "
    expect(pays[2] > 1, f"{skips}your loss, and one that recites in order pays {pays[1]:.2f}.")
    expect(
        pays[0] > 1,
        "a model that repeats the letter it has read (a a a …) pays next to nothing with your "
        f"loss, and one that recites in order pays {pays[1]:.2f}.",
    )
    expect(
        pays[1] < 0.01,
        "a model that recites the alphabet in order, and is sure of it, pays "
        f"{pays[1]:.2f} with your loss; it should pay next to nothing.",
    )
    rows = torch.randint(letters, (3, 6), generator=dice)
    model = Reciter(torch.randn(letters, letters, generator=dice))
    loss = answer(model, rows.clone())
    surprise = -model.table.detach().log_softmax(-1)[rows[:, :-1], rows[:, 1:]]  # (3, 5)
    few = "{} question of each row is missing: a row of 6 tokens asks for 5."
    mistakes = [
        (surprise[:, 1:].mean().item(), few.format("the first")),
        (surprise[:, :-1].mean().item(), few.format("the last")),
        (surprise[:, 1:-1].mean().item(), "two questions of each row are missing."),
        (surprise.sum().item(), "this is the sum of the surprises; a loss is their mean."),
        (surprise.sum().item() / 3, "this is a sum for each row; a loss is a mean over tokens."),
        (surprise.sum().item() / 18, "5 questions a row are asked, and you divide by 6."),
    ]
    settle(loss, surprise.mean().item(), mistakes, "the loss of a model with random scores")
    expect(
        isinstance(loss, torch.Tensor) and loss.requires_grad,
        "nobody can learn from your loss: it has lost its connection to the model (`.item()`?).",
    )
    return "Whoever recites in order pays least."


# 5.4


@exercise("5.4", "A leash for the logits")
def z_loss(dice, answer):
    """`answer(logits, targets, weight) -> loss`; odd sizes, places that ask nothing."""
    hand = answer(torch.tensor([[[3.0, 1.0]]]).log(), torch.tensor([[0]]), 0.5)
    paid, z = math.log(4 / 3), math.log(4)
    mistakes = [
        (paid, "the second part is missing: yours is the cross-entropy alone."),
        (paid + 0.5 * z, "z stands there without its square, so it would be pulled below 0."),
        (paid + z * z, "the weight is missing."),
        (0.5 * z * z, "the first part is missing: yours is the leash alone."),
        (paid + 0.5 * math.log(10), "take the square of z; you squared what is added up in it."),
        (
            paid + 0.25 * math.log(3) ** 2,
            "the logits themselves are squared. z is one number for each place: over the "
            "vocabulary, the last axis.",
        ),
        (paid - 0.5 * z * z, "the leash must make the loss larger; yours makes it smaller."),
    ]
    settle(hand, paid + 0.5 * z * z, mistakes, "the example with logits (ln 3, 0)")
    logits = 2 * torch.randn(2, 5, 7, generator=dice) + 1
    targets = torch.randint(7, (2, 5), generator=dice)
    targets[0, 3:] = IGNORED
    asked = targets != IGNORED
    z = logits.double().exp().sum(-1).log()  # (2, 5)
    paid = (z[asked] - logits[asked].gather(1, targets[asked][:, None])[:, 0]).mean().item()
    leash = (z[asked] ** 2).mean().item()
    leaf = logits.clone().requires_grad_()
    loss = answer(leaf, targets.clone(), 0.1)
    mistakes = [
        (
            paid + 0.1 * (z**2).mean().item(),
            "places that ask nothing (target -100) have a say in the leash.",
        ),
        (
            paid + 0.1 * leash * int(asked.sum()) / 10,
            "the leash is divided by all places; only those that ask something count.",
        ),
        (paid + 0.1 * leash * int(asked.sum()), "the leash is a sum; take the mean."),
        (
            paid + 0.1 * z[asked].mean().item() ** 2,
            "square first, then take the mean: z of +3 at one place and -3 at another are two "
            "that drifted.",
        ),
    ]
    settle(loss, paid + 0.1 * leash, mistakes, "a batch with places that ask nothing")
    expect(
        isinstance(loss, torch.Tensor) and loss.requires_grad,
        "nobody can learn from your loss: it has lost its connection to the logits.",
    )
    (pull,) = torch.autograd.grad(loss, leaf)
    down = 0.2 * (z[asked].sum() / asked.sum()).item()
    expect(
        abs(pull.sum().item() - down) < 1e-3,
        "the number is right, but z has no pull on the logits: part of it lost its gradient.",
    )
    big = answer(torch.tensor([[[1000.0, 990.0, -1000.0]]]), torch.tensor([[1]]), 1e-4)
    big = float(big)
    expect(
        math.isfinite(big),
        f"with a logit of 1000 your loss is {big}: e to the 1000 is too large for the computer.",
    )
    settle(big, 110.0, [], "with logits of 1000, 990 and -1000")
    return "The logits may grow, but they feel it."


# 5.5


@exercise("5.5", "A bug hunt: clipping that bends")
def clipping(dice, answer):
    """`answer(parameters, optimizer, max_norm) -> length`; SGD with rate 1 shows the gradient."""

    def step(gradients: list[torch.Tensor], max_norm: float) -> tuple[torch.Tensor, object]:
        parameters = [nn.Parameter(torch.ones_like(g)) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        length = answer(parameters, torch.optim.SGD(parameters, lr=1.0), max_norm)
        left = [p.grad for p in parameters if p.grad is not None]
        expect(
            not any(bool(g.abs().max() > 0) for g in left),
            "the gradients are still there after the step; the next ones would be added to them.",
        )
        return torch.cat([(1 - p.detach()).flatten() for p in parameters]), length

    shapes = ((3,), (2, 5), (4, 1))
    sizes = (0.3, 4.0, 1.5)
    grads = [s * torch.randn(x, generator=dice) for s, x in zip(sizes, shapes, strict=True)]
    flat = torch.cat([g.flatten() for g in grads])
    whole = flat.norm().item()
    moved, length = step(grads, 1.2)
    far = moved.norm().item()
    expect(far > 0, "no step was taken.")
    bend = F.cosine_similarity(moved.double(), flat.double(), dim=0).clamp(-1, 1).acos()
    bend = math.degrees(bend.item())
    expect(bend < 90, "the step goes uphill.")
    expect(
        bend < 0.5,
        f"the step goes elsewhere than the gradient: {bend:.0f} degrees away from it. Clipping "
        "should shorten the step and leave its direction alone.",
    )
    expect(
        not math.isclose(far, whole, rel_tol=1e-3),
        f"the gradient is {whole:.1f} long, max_norm is 1.2, and the step went {far:.1f} far: "
        "nothing was shortened before the step.",
    )
    expect(
        math.isclose(far, 1.2, rel_tol=1e-3),
        f"the gradient is {whole:.1f} long, max_norm is 1.2, and the step went {far:.2f} far.",
    )
    small = [g * 0.5 / whole for g in grads]
    kept, short_length = step(small, 1.2)
    expect(
        math.isclose(kept.norm().item(), 0.5, rel_tol=1e-3),
        f"a gradient of length 0.5 is below max_norm=1.2 and needs no clipping; the step went "
        f"{kept.norm():.2f} far.",
    )
    known = [
        (1.2, "you return the length after clipping; asked for is the one before."),
        (sum(g.norm().item() for g in grads), "you return the sum of the tensors' lengths."),
    ]
    settle(length, whole, known, "the length that you return")
    settle(short_length, 0.5, [], "the length that you return for a short gradient")
    return "Shorter, and in the same direction."


# 5.6


def nudge(model: nn.Module, dice: torch.Generator) -> None:
    """Change a model's weights, as a step of training would."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=dice))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().double().clone() for p in model.parameters()]


@exercise("5.6", "The mean of many models")
def averaged(dice, answer):
    """`answer(model, keep)` with `.model` and `.update(model)`; a GPT in miniature is averaged."""
    model = GPTModel(GPTConfig(11, 5, 6, 2, 1, dropout=0.1), seed=1)
    average = answer(model, 0.3)
    mine = getattr(average, "model", None)
    expect(isinstance(mine, nn.Module), "there is no model in `.model`.")
    kinds = [p.shape for p in mine.parameters()] == [p.shape for p in model.parameters()]
    expect(kinds, "the model in `.model` has other weights than the one that was given.")
    old = weights(model)
    expect_same(weights(mine)[0], old[0], "before any update, the first weight of the average")
    nudge(model, dice)
    expect(
        torch.equal(weights(mine)[0], old[0]),
        "the model learned a little, nobody called `update`, and your average changed with it.",
    )
    expect(
        mine is not model and all(a is not b for a, b in _pairs_of(mine, model)),
        "your average is the model itself.",
    )
    for count in range(5):
        before, now, was = weights(model), weights(model), weights(mine)
        average.update(model)
        expect(
            all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True)),
            "`update` changes the model that is being trained.",
        )
        keep = min(0.3, (1 + count) / (10 + count))
        got = weights(mine) if average.model is mine else weights(average.model)
        mine = average.model
        _expect_mean(was, now, got, keep, count)
        nudge(model, dice)
    expect(
        not any(p.requires_grad for p in mine.parameters()),
        "the average's weights ask for gradients, and so keep the computation behind them in "
        "memory.",
    )
    expect(not mine.training, "the average would use dropout: it is in training mode.")
    expect(model.training, "the model that is being trained has lost its dropout.")
    return "It follows the model, and trembles less."


def _pairs_of(one: nn.Module, other: nn.Module) -> Iterable[tuple]:
    return zip(one.parameters(), other.parameters(), strict=True)


def _expect_mean(was: list, now: list, got: list, keep: float, count: int) -> None:
    """Whether `got` is `keep` of the average as it was and the rest of the model as it is now."""
    shares = []  # of the old average, as far as each weight shows it
    for w, n, g in zip(was, now, got, strict=True):
        shares.append(1 - float(((n - w) * (g - w)).sum() / ((n - w) ** 2).sum()))
    kept = shares[0]
    nth = f"update number {count + 1}"
    expect(max(abs(share - 1) for share in shares) > 1e-3, f"{nth} changes nothing.")
    odd = max(range(len(shares)), key=lambda i: abs(shares[i] - kept))
    expect(
        abs(shares[odd] - kept) < 1e-3,
        f"{nth} keeps {kept:.0%} of a weight of shape {tuple(was[0].shape)} and {shares[odd]:.0%} "
        f"of one of shape {tuple(was[odd].shape)}; all weights are to be treated alike.",
    )
    expect(
        count or not math.isclose(kept, 0.3, abs_tol=1e-3),
        f"{nth} keeps {kept:.0%} of the random weights from before training; with the rule for "
        f"the start it keeps {keep:.0%}.",
    )
    expect(
        not math.isclose(kept, 1 - keep, abs_tol=1e-3),
        f"{nth} keeps {kept:.0%} of the average and takes {keep:.0%} of the model; it should "
        "be the other way round.",
    )
    expect(
        math.isclose(kept, keep, abs_tol=1e-3),
        f"{nth} keeps {kept:.1%} of the average, expected {keep:.1%}.",
    )
    for w, n, g in zip(was, now, got, strict=True):
        error = float((keep * w + (1 - keep) * n - g).abs().max())
        expect(error < 1e-4, f"{nth}: a weight of shape {tuple(g.shape)} is off by {error:.2g}.")


# 5.7


@exercise("5.7", "A bug hunt: the second step goes astray")
def momentum(dice, answer):
    """`answer(parameters, sums, rate, momentum)`; gradients are cleared in three ways."""
    keep, rate = 0.9, 0.1
    for way in ("zeroed in place", "thrown away", "written over"):
        start = [torch.randn(shape, generator=dice) for shape in ((3,), (2, 4))]
        parameters, sums = [nn.Parameter(p.clone()) for p in start], {}
        speed = [torch.zeros_like(p) for p in start]
        where = [p.clone() for p in start]
        for step in range(1, 4):
            slopes = [torch.randn(p.shape, generator=dice) for p in start]
            _give(parameters, slopes, way)
            answer(parameters, sums, rate, keep)
            for i, p in enumerate(parameters):
                expect_tensor(p.detach(), tuple(start[i].shape), "a parameter after the step")
                old = where[i].clone()
                speed[i] = keep * speed[i] + slopes[i]
                where[i] = where[i] - rate * speed[i]
                _expect_step(step, way, (old - p.detach()) / rate, speed[i], slopes[i], keep)
    return "It remembers, whoever clears the gradients, and however."


def _give(parameters: list, slopes: list, way: str) -> None:
    """Give each parameter its gradient, after the old one was cleared in one of three ways."""
    for p, slope in zip(parameters, slopes, strict=True):
        if p.grad is None or way == "thrown away":
            p.grad = slope.clone()
        elif way == "zeroed in place":
            p.grad.zero_()
            p.grad.add_(slope)
        else:
            p.grad.copy_(slope)


def _expect_step(step: int, way: str, made, wanted, slope, keep: float) -> None:
    """Whether a step divided by the rate is the sum that it should be."""
    if torch.allclose(made, wanted, atol=1e-3):
        return
    place = int((made - wanted).abs().flatten().argmax())
    made, wanted, slope = (float(x.flatten()[place]) for x in (made, wanted, slope))
    begin = f"step {step}, when the old gradients were {way}: "
    expect(step > 1, f"{begin}moves by {made:.3f} times the rate, expected {wanted:.3f}.")
    before = (wanted - slope) / keep
    expect(
        abs(made - slope) > 1e-3, f"{begin}it goes by the new gradient alone and remembers nothing."
    )
    expect(
        abs(made - keep * before - (1 - keep) * slope) > 1e-3,
        f"{begin}yours is a running mean; asked for is {keep} times the sum plus the gradient.",
    )
    raise Wrong(
        f"{begin}the sum was {before:.3f} and the gradient is {slope:.3f}, so it should move by "
        f"{keep} · {before:.3f} + {slope:.3f} = {wanted:.3f} times the rate. Yours: {made:.3f}."
    )


# 5.8

LOOKS = {
    "fine": "a good run falls early, and in its second half goes down calmly to near the best "
    "that is possible",
    "rate too low": "with too low a rate nothing jumps, ever, and the way down is slow",
    "rate too high": "with too high a rate the loss jumps about as long as the rate is up, far "
    "above where it began",
    "no warm-up": "without warm-up the harm is done in the first few steps: the loss rises, and "
    "what comes after is rather calm, but has a long way to make up for",
    "no decay": "without decay a run learns as quickly as a good one, and trembles to the very end",
}
RUNS = {  # letter: what it is, and (rate, share of warm-up, share of decay, seed)
    "A": ("no warm-up", (0.06, 0.0, 0.5, 0)),
    "B": ("no decay", (0.06, 0.15, 0.0, 2)),
    "C": ("rate too low", (0.001, 0.15, 0.5, 1)),
    "D": ("fine", (0.06, 0.15, 0.5, 3)),
    "E": ("rate too high", (0.4, 0.15, 0.5, 0)),
}


def toy_rows(table: torch.Tensor, count: int, length: int, dice: torch.Generator) -> torch.Tensor:
    """Rows in a toy language: the chances of the next token are the present one's row of a table.

    Shape:
        table: (tokens, tokens); result: (count, length), int64.
    """
    rows = [torch.randint(len(table), (count,), generator=dice)]
    for _ in range(length - 1):
        rows.append(torch.multinomial(table[rows[-1]], 1, generator=dice)[:, 0])
    return torch.stack(rows, dim=1)


def toy_run(
    rate: float, warmup: float, decay: float, seed: int, steps: int = 120
) -> tuple[list[float], float]:
    """The held-out losses of a small GPT at every second step, and the best loss possible."""
    table = (2 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).softmax(-1)
    held_out = toy_rows(table, 64, 17, torch.Generator().manual_seed(99))
    text = toy_rows(table, 2000, 17, torch.Generator().manual_seed(1))
    model, dice = GPTModel(GPTConfig(16, 16, 24, 2, 1), seed=seed), torch.Generator()
    dice.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)

    def loss_on(rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    losses = []
    for step in range(steps):
        rising = (step + 1) / (warmup * steps) if warmup else 1.0
        falling = (steps - step) / (decay * steps) if decay else 1.0
        optimizer.param_groups[0]["lr"] = rate * min(1.0, rising, falling)
        if step % 2 == 0:
            with torch.no_grad():
                losses.append(loss_on(held_out).item())
        loss = loss_on(text[torch.randint(len(text), (4,), generator=dice)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = -table[held_out[:, :-1], held_out[:, 1:]].log().mean().item()
    return losses, floor


def five_runs() -> tuple[dict[str, list[float]], float]:
    """Exercise 5.8's runs, made here and now: losses by letter, and the best loss possible."""
    made = {letter: toy_run(*settings) for letter, (_, settings) in RUNS.items()}
    return {letter: losses for letter, (losses, _) in made.items()}, made["A"][1]


@exercise("5.8", "Five curves, five causes")
def causes(dice, given):
    """A dict from the letters to the names of the causes."""
    expect(isinstance(given, Mapping), "expected a dict: a cause for each letter.")
    for letter in RUNS:
        expect(letter in given, f"run {letter} has no cause yet.")
        said = given[letter]
        expect(
            isinstance(said, str) and said in LOOKS,
            f"run {letter}: {said!r} is none of the causes: {', '.join(LOOKS)}.",
        )
    wrong_ones = [letter for letter, (cause, _) in RUNS.items() if given[letter] != cause]
    if wrong_ones:
        letter, kept = wrong_ones[0], len(RUNS) - len(wrong_ones)
        said = given[letter]
        raise Wrong(f"{kept} of 5. Run {letter} is not '{said}': {LOOKS[said]}. Is it so here?")
    return "You read curves."


# 5.9


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference of pairs, and its interval."""
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1))
    half = T95[len(gaps)] * spread / math.sqrt(len(gaps))
    return mean, mean - half, mean + half


def _variance(numbers: Sequence[float]) -> float:
    mean = sum(numbers) / len(numbers)
    return sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1)


def _expect_interval(given: object, first: Sequence[float], second: Sequence[float]) -> None:
    n = len(first)
    mean, low, high = paired(first, second)
    if isinstance(given, torch.Tensor):
        given = given.tolist()
    expect(
        isinstance(given, Sequence) and len(given) == 3,
        "return three numbers: the mean difference, the interval's low end, and its high end.",
    )
    said, bottom, top = (as_number(x, "one of your three numbers") for x in given)
    expect(
        not close(said, -mean), "you subtract the first from the second; asked is first - second."
    )
    expect(
        close(said, mean) or not close(bottom, mean),
        "the mean stands in the second place; return it first, then the low and the high end.",
    )
    settle(said, mean, [], "the mean difference")
    expect(close(said - bottom, top - said), "the mean is not in the middle of your interval.")
    expect(bottom < top, "the low end of your interval lies above its high end.")
    half = high - mean
    apart = T95[n] * math.sqrt((_variance(first) + _variance(second)) / n)
    mistakes = (
        (
            apart,
            "you took the spread of each side by itself, which holds how different the seeds are. "
            "Subtract pair by pair first; what both runs of a seed share drops out.",
        ),
        (
            half * math.sqrt(n),
            "that is the spread of one difference; a mean's is √n less.",
        ),
        (half * math.sqrt((n - 1) / n), "for the spread, divide the squares by n - 1, not by n."),
        (half / T95[n] * 1.96, f"1.96 is for many pairs; with {n}, the table says {T95[n]}."),
        (half / T95[n], "this is one standard error; multiply it by the number in the table."),
        (half / math.sqrt(n), "you divided by n; the spread of a mean is smaller by √n."),
    )
    if abs(top - said - half) > 1e-3 * half:
        for pairs, t in T95.items():
            expect(
                pairs == n or abs(top - said - half / T95[n] * t) > 1e-3 * half,
                f"there are {n} pairs here, and your t is the one for {pairs}.",
            )
        for value, told in mistakes:
            expect(abs(top - said - value) > 1e-3 * value, told)
        raise Wrong(f"half of your interval is {top - said:.4g} wide, expected {half:.4g}.")


@exercise("5.9", "Which difference is real?")
def differences_that_are_real(dice, answer, losses, real):
    """`answer(first, second) -> (mean, low, high)`, the losses by rate, and two verdicts."""
    _expect_interval(answer([5.0, 7.0, 4.0], [4.0, 5.0, 1.0]), [5.0, 7.0, 4.0], [4.0, 5.0, 1.0])
    seeds = 2 + 3 * torch.rand(6, generator=dice)
    first = (seeds + 0.3 * torch.rand(6, generator=dice)).tolist()
    second = (seeds + 0.3 * torch.rand(6, generator=dice) + 0.1).tolist()
    _expect_interval(answer(list(first), list(second)), first, second)
    expect(
        isinstance(losses, Mapping) and all(len(runs) == 5 for runs in losses.values()),
        "`losses` should be the dict that the notebook made: five runs for each rate.",
    )
    if isinstance(real, torch.Tensor):
        real = real.tolist()
    expect(
        isinstance(real, Sequence) and len(real) == 2 and all(isinstance(r, bool) for r in real),
        "your verdict: expected two of True and False, as in [True, True].",
    )
    for verdict, (one, other) in zip(real, ((0.003, 0.01), (0.01, 0.015)), strict=True):
        _, low, high = paired(losses[one], losses[other])
        holds, names = low <= 0 <= high, f"{one} against {other}"
        expect(
            not (verdict and holds),
            f"{names}: the interval goes from {low:.3f} to {high:.3f} and holds 0, so no "
            "difference at all goes well with these runs, too.",
        )
        expect(
            verdict or holds,
            f"{names}: the interval goes from {low:.3f} to {high:.3f}; 0 is not in it.",
        )
    return "And that on five seeds."


QUESTIONS = [
    question(
        "5.a",
        "**Label smoothing** trains a model to give the token that came 90 % and to share out the "
        "rest. Your training loss with smoothing is 0.9; your friend's, without, is 0.7. Same "
        "text, same tokenizer. Whose model tells the text better?",
        wrong("Your friend's.", "The two numbers grade different things, so they have no order."),
        wrong(
            "Yours: it is less sure of itself.",
            "Being less sure is what the target asks for; whether it helps is to be measured.",
        ),
        right(
            "Nobody can tell from this.",
            "With smoothing even a perfect answer pays for being sure, so the floor is higher. "
            "Compare both by plain cross-entropy on held-out text.",
        ),
    ),
    question(
        "5.b",
        "AdamW with a learning rate of 0.01 and a weight decay of 0.1. A weight gets no gradient "
        "any more. After about how many steps has it shrunk to half?",
        wrong("7", "That would be a tenth at each step: the learning rate is a factor, too."),
        wrong("70", "A step takes off 0.01 · 0.1 of the weight. Which share is that?"),
        right("700", "Each step takes off 0.1 %, and 0.999 to the 693 is a half."),
        wrong("It never does.", "AdamW's decay needs no gradient: it shrinks every weight."),
    ),
    question(
        "5.c",
        "A model with dropout is trained twice from the same seed. Looked at every 10 steps, its "
        "*training* loss is clearly lower than when it is never looked at. What happened?",
        wrong(
            "It learned from the held-out text.",
            "Looking calls no `backward`, so there is nothing to learn from.",
        ),
        right(
            "After the first look, dropout stayed off.",
            "`model.eval()` without a way back: from then on no numbers are zeroed, the training "
            "loss is lower, and the protection that dropout gives is gone.",
        ),
        wrong(
            "Looking used up random numbers.",
            "That would make the runs differ, but neither of them clearly lower.",
        ),
    ),
    question(
        "5.d",
        "A run is stopped each evening and goes on in the morning. Each morning its loss jumps "
        "up, and after some hundred steps it is back. What was not saved?",
        wrong("The weights.", "Then the loss would begin at ln(vocabulary) each morning."),
        wrong(
            "The place in the text.",
            "Reading the same text again makes the loss lower, if anything.",
        ),
        right(
            "The optimiser's running means.",
            "They begin at 0 again, and until they have seen some gradients, the full learning "
            "rate follows a handful of noisy batches.",
        ),
        wrong(
            "The random numbers of dropout.",
            "Other random numbers give other noise, not a higher loss.",
        ),
    ),
    question(
        "5.e",
        "By mistake the loss is the *sum* over 1,000 tokens, not their mean. The optimiser is "
        "AdamW, without clipping. What becomes of the training?",
        wrong(
            "Every step is a thousand times as long.",
            "So it would be with plain descent. AdamW divides by the gradient's own size.",
        ),
        right(
            "Next to nothing changes.",
            "The mean of the slopes grows by a thousand, the root of the mean square by a "
            "thousand, too, and the factor drops out of the quotient. With clipping, or with "
            "plain descent, it would matter.",
        ),
        wrong(
            "It learns a thousand times as slowly.",
            "Nothing becomes smaller: the gradient grew, and AdamW divides by its size.",
        ),
    ),
    question(
        "5.f",
        "The loss of the training batches falls in a staircase: flat, a sudden step down, flat, a "
        "step down. The steps are as far apart as one pass over the text is long. What is it?",
        right(
            "It has begun to know the text by heart.",
            "At each border of a pass it meets rows for one more time. Look at held-out loss: it "
            "will not have such steps, and may rise.",
        ),
        wrong("The learning rate falls in steps.", "Ours does not, and not once a pass."),
        wrong(
            "A batch is too small.",
            "Small batches make noise at every step, not a stair at every pass.",
        ),
    ),
    question(
        "5.g",
        "A gradient's weakest direction has the strength 0.000001, once its length is 1. What do "
        "Muon's five Newton-Schulz steps make of it?",
        wrong("About 1, as of all directions.", "How much can one step raise a tiny value?"),
        wrong("Exactly 0.", "An odd polynomial sends only 0 to 0."),
        right(
            "About 0.0005.",
            "For tiny values only a·s counts, so each step multiplies by 3.4445, and five of them "
            "by about 485. What is nearly rounding error stays small.",
        ),
    ),
]
