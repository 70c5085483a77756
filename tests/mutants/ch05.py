"""Wrong and other right answers to chapter 5's exercises."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from shared.exercises.ch05 import RUNS
from tests.mutants.cases import mutant, right

# 5.1


@right("5.1", "place by place, with a logarithm to base 2")
def bits_by_places():
    def measure(logits, targets, vocab):
        bits = size = 0
        for row, came in zip(logits, targets, strict=True):
            for scores, token in zip(row, came.tolist(), strict=True):
                if token != -100:
                    bits -= math.log2(scores.softmax(-1)[token])
                    size += len(vocab[token])
        return bits / size

    return measure


def bits_with(change):
    """An answer that goes wrong in `change(nats of each target, ids, lengths) -> result`."""

    def measure(logits, targets, vocab):
        asked = targets != -100
        nats = F.cross_entropy(logits[asked], targets[asked], reduction="none")
        ids = targets[asked]
        return change(nats, ids, torch.tensor([len(vocab[i]) for i in ids.tolist()])).item()

    return measure


@mutant("5.1", "nats in place of bits", says="nats per byte")
def bits_in_nats():
    return bits_with(lambda nats, ids, sizes: nats.sum() / sizes.sum())


@mutant("5.1", "multiplied by ln 2", says="divide by ln 2")
def bits_multiplied():
    return bits_with(lambda nats, ids, sizes: nats.sum() * math.log(2) / sizes.sum())


@mutant("5.1", "a mean of each token's own bits per byte", says="divide once")
def bits_mean_of_ratios():
    return bits_with(lambda nats, ids, sizes: (nats / math.log(2) / sizes).mean())


@mutant("5.1", "the empty token's surprise left out", says="has to be guessed")
def bits_without_end():
    return bits_with(
        lambda nats, ids, sizes: nats[sizes > 0].sum() / math.log(2) / sizes.sum(),
    )


@mutant("5.1", "characters in place of bytes", says="two bytes")
def bits_per_character():
    def measure(logits, targets, vocab):
        asked = targets != -100
        nats = F.cross_entropy(logits[asked], targets[asked], reduction="sum").item()
        text = [vocab[i].decode(errors="replace") for i in targets[asked].tolist()]
        return nats / math.log(2) / sum(map(len, text))

    return measure


@mutant("5.1", "a mean over the rows", says="mean over the rows")
def bits_mean_of_rows():
    whole = bits_with(lambda nats, ids, sizes: nats.sum() / math.log(2) / sizes.sum())

    def measure(logits, targets, vocab):
        rows = zip(logits, targets, strict=True)
        return sum(whole(a[None], b[None], vocab) for a, b in rows) / len(logits)

    return measure


@mutant("5.1", "padding has a say", says="asks nothing")
def bits_with_padding():
    def measure(logits, targets, vocab):
        targets = targets.clamp(min=0)
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        return nats / math.log(2) / sum(len(vocab[i]) for i in targets.flatten().tolist())

    return measure


# 5.2


def floors_found(again: float = 9 / 16) -> list[float]:
    one = -again * math.log(again) - (1 - again) * math.log((1 - again) / 7)
    return [math.log(12), math.log(8), one, math.log(8) / 2]


@right("5.2", "two decimals, by pocket calculator")
def floors_rounded():
    return [2.48, 2.08, 1.54, 1.04]


@right("5.2", "measured on a long text by counting")
def floors_measured():
    dice = torch.Generator().manual_seed(0)
    rows = torch.randint(8, (20_000, 13), generator=dice).repeat_interleave(2, dim=1)[:, :25]
    before, came = rows[:, :-1].flatten(), rows[:, 1:].flatten()
    counts = torch.zeros(8, 8).index_put((before, came), torch.ones(len(came)), accumulate=True)
    chances = counts / counts.sum(1, keepdim=True)
    pairs = -chances[before, came].log().mean().item()
    return torch.tensor([math.log(12), math.log(8), pairs, math.log(8) * 12 / 24])


@mutant("5.2", "in bits", says="bits; nats are asked")
def floors_in_bits():
    return [x / math.log(2) for x in floors_found()]


@mutant("5.2", "only the letters that come", says="knows nothing.*never come")
def floors_small_vocabulary():
    return [math.log(8), *floors_found()[1:]]


@mutant("5.2", "forgets that the die may repeat a letter", says="sees one letter.*may")
def floors_half():
    return floors_found(again=1 / 2)


@mutant("5.2", "the best reader has to guess everything", says="understood.*half")
def floors_pessimist():
    return [*floors_found()[:3], math.log(8)]


# 5.3


@right("5.3", "the whole row through the model, the last guess left out")
def shift_after():
    def loss(model, rows):
        logits = model(rows)
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:])

    return loss


@mutant("5.3", "as given: moved twice", says="a c e g")
def shift_twice():
    def loss(model, rows):
        logits, targets = model(rows[:, :-1]), rows[:, 1:]
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    return loss


@mutant("5.3", "not moved at all", says="a a a")
def shift_not():
    return lambda model, rows: F.cross_entropy(model(rows).flatten(0, 1), rows.flatten())


@mutant("5.3", "rolled: the last place asks for the first letter", says="in order")
def shift_rolled():
    def loss(model, rows):
        return F.cross_entropy(model(rows).flatten(0, 1), rows.roll(-1, dims=1).flatten())

    return loss


@mutant("5.3", "one question short", says="the first question of each row is missing")
def shift_short():
    def loss(model, rows):
        logits = model(rows[:, 1:-1])
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 2:].flatten())

    return loss


@mutant("5.3", "a plain number", says="learn from your loss")
def shift_item():
    def loss(model, rows):
        return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()

    return loss


# 5.4


@right("5.4", "from z, for both parts, in double precision")
def leash_by_hand():
    def loss(logits, targets, weight):
        asked = targets.ne(-100).double()
        z = torch.logsumexp(logits.double(), dim=2)
        came = logits.gather(2, targets.clamp(min=0)[..., None])[..., 0]
        return ((z - came + weight * z.square()) * asked).sum() / asked.sum()

    return loss


def leash_with(penalty):
    """Cross-entropy and a penalty that goes wrong."""

    def loss(logits, targets, weight):
        paid = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return paid + weight * penalty(logits, targets)

    return loss


@mutant("5.4", "without the square", says="without its square")
def leash_linear():
    return leash_with(lambda logits, targets: logits[targets >= 0].logsumexp(-1).mean())


@mutant("5.4", "over the wrong axis", says="last axis")
def leash_wrong_axis():
    return leash_with(lambda logits, targets: logits.logsumexp(1).pow(2).mean())


@mutant("5.4", "padding has a say", says="ask nothing")
def leash_on_padding():
    return leash_with(lambda logits, targets: logits.logsumexp(-1).pow(2).mean())


@mutant("5.4", "the mean first, then the square", says="square first")
def leash_mean_first():
    return leash_with(lambda logits, targets: logits[targets >= 0].logsumexp(-1).mean() ** 2)


@mutant("5.4", "powers computed as they are", says="too large")
def leash_overflow():
    return leash_with(
        lambda logits, targets: logits[targets >= 0].exp().sum(-1).log().pow(2).mean()
    )


@mutant("5.4", "z without a gradient", says="no pull")
def leash_detached():
    return leash_with(
        lambda logits, targets: logits.detach()[targets >= 0].logsumexp(-1).pow(2).mean()
    )


# 5.5


@right("5.5", "PyTorch's own function")
def clip_by_torch():
    def step(parameters, optimizer, max_norm):
        length = nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return length

    return step


@right("5.5", "one long vector, and an if")
def clip_flat():
    def step(parameters, optimizer, max_norm):
        length = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
        if length > max_norm:
            for p in parameters:
                p.grad = p.grad * (max_norm / length)
        optimizer.step()
        for p in parameters:
            p.grad = None
        return length

    return step


def clip_with(change, before=True, kept=False):
    """A step around `change(parameters, max_norm) -> length`, before the update or after it."""

    def step(parameters, optimizer, max_norm):
        length = change(parameters, max_norm) if before else 0.0
        optimizer.step()
        length = length if before else change(parameters, max_norm)
        if not kept:
            optimizer.zero_grad()
        return float(length)

    return step


@mutant("5.5", "as given: each tensor alone", says="degrees away")
def clip_each():
    def change(parameters, max_norm):
        lengths = [nn.utils.clip_grad_norm_([p], max_norm) for p in parameters]
        return torch.stack(lengths).norm()

    return clip_with(change)


@mutant("5.5", "each number alone", says="degrees away")
def clip_numbers():
    def change(parameters, max_norm):
        length = torch.cat([p.grad.flatten() for p in parameters]).norm()
        nn.utils.clip_grad_value_(parameters, max_norm)
        return length

    return clip_with(change)


@mutant("5.5", "after the step", says="nothing was shortened")
def clip_late():
    return clip_with(nn.utils.clip_grad_norm_, before=False)


@mutant("5.5", "short gradients made longer", says="needs no clipping")
def clip_always():
    def change(parameters, max_norm):
        length = torch.cat([p.grad.flatten() for p in parameters]).norm()
        for p in parameters:
            p.grad.mul_(max_norm / length)
        return length

    return clip_with(change)


@mutant("5.5", "gradients not cleared", says="still there")
def clip_uncleared():
    return clip_with(nn.utils.clip_grad_norm_, kept=True)


@mutant("5.5", "lengths added up", says="the step went")
def clip_sum():
    def change(parameters, max_norm):
        length = sum(p.grad.norm() for p in parameters)
        for p in parameters:
            p.grad.mul_((max_norm / length).clamp(max=1))
        return length

    return clip_with(change)


# 5.6


class Mean:
    """A right answer, by state dicts; wrong ones change a part of it."""

    def __init__(self, model, keep):
        self.keep, self.t = keep, 0
        self.model = type(model)(model.config)
        self.model.load_state_dict(model.state_dict())
        self.model.train(False)
        for p in self.model.parameters():
            p.requires_grad = False

    def share(self):
        self.t += 1
        return min(self.keep, self.t / (9 + self.t))

    def update(self, model):
        k, mine = self.share(), self.model.state_dict()
        mixed = {n: k * mine[n] + (1 - k) * w.detach() for n, w in model.state_dict().items()}
        self.model.load_state_dict(mixed)


@right("5.6", "by state dicts")
def mean_by_state():
    return Mean


@right("5.6", "PyTorch's own class")
def mean_by_torch():
    class Theirs:
        def __init__(self, model, keep):
            def mix(mean, now, count):  # PyTorch takes the first model over as it is
                k = min(keep, count / (9 + count))
                return k * mean + (1 - k) * now

            self.inner = torch.optim.swa_utils.AveragedModel(model, avg_fn=mix)
            self.inner.n_averaged += 1
            self.inner.eval().requires_grad_(False)

        @property
        def model(self):
            return self.inner.module

        def update(self, model):
            self.inner.update_parameters(model)

    return Theirs


@mutant("5.6", "a second name for the same model", says="changed with it")
def mean_alias():
    class Alias(Mean):
        def __init__(self, model, keep):
            self.model, self.keep, self.t = model, keep, 0

    return Alias


@mutant("5.6", "the two shares swapped", says="other way round")
def mean_swapped():
    class Swapped(Mean):
        def share(self):
            return 1 - super().share()

    return Swapped


@mutant("5.6", "no rule for the start", says="random weights from before")
def mean_no_start():
    class Plain(Mean):
        def share(self):
            return self.keep

    return Plain


@mutant("5.6", "counts from 1", says="update number 1 keeps 18")
def mean_count():
    class Late(Mean):
        def share(self):
            self.t += self.t == 0
            return super().share()

    return Late


@mutant("5.6", "never stops forgetting: the largest of the two", says="update number")
def mean_largest():
    class Largest(Mean):
        def share(self):
            self.t += 1
            return max(self.keep, self.t / (9 + self.t))

    return Largest


@mutant("5.6", "gradients left on", says="ask for gradients")
def mean_with_gradients():
    class Costly(Mean):
        def __init__(self, model, keep):
            super().__init__(model, keep)
            self.model.requires_grad_(True)

    return Costly


@mutant("5.6", "the model's own dropout turned off", says="lost its dropout")
def mean_disturbs():
    class Disturbs(Mean):
        def update(self, model):
            model.eval()
            super().update(model)

    return Disturbs


@mutant("5.6", "the matrices alone", says="treated alike")
def mean_matrices():
    class Matrices(Mean):
        def update(self, model):
            k = self.share()
            with torch.no_grad():
                for p, q in zip(self.model.parameters(), model.parameters(), strict=True):
                    if p.ndim == 2:
                        p.mul_(k).add_(q, alpha=1 - k)

    return Matrices


# 5.7


@right("5.7", "sums that begin at 0")
def momentum_from_zero():
    def step(parameters, sums, rate, momentum):
        with torch.no_grad():
            for p in parameters:
                old = sums.get(p, torch.zeros_like(p))
                sums[p] = momentum * old + p.grad
                p -= rate * sums[p]

    return step


@right("5.7", "PyTorch's SGD, kept in sums")
def momentum_by_torch():
    def step(parameters, sums, rate, momentum):
        if "sgd" not in sums:
            sums["sgd"] = torch.optim.SGD(parameters, lr=rate, momentum=momentum)
        sums["sgd"].step()

    return step


def momentum_with(first, later):
    """An answer that goes wrong in its first sum or in a later one."""

    @torch.no_grad()
    def step(parameters, sums, rate, momentum):
        for i, p in enumerate(parameters):
            sums[i] = later(sums[i], p.grad, momentum) if i in sums else first(p.grad, momentum)
            p.sub_(rate * sums[i])

    return step


@mutant("5.6", "new names, old weights", says="changes nothing")
def mean_rebinds():
    class Rebinds(Mean):
        def update(self, model):
            k = self.share()
            for p, q in zip(self.model.parameters(), model.parameters(), strict=True):
                p = k * p + (1 - k) * q

    return Rebinds


@mutant("5.7", "as given: the gradient is the memory", says="zeroed in place: the sum was")
def momentum_alias():
    return momentum_with(lambda g, m: g, lambda s, g, m: s.mul_(m).add_(g))


@mutant("5.7", "another name by detach", says="zeroed in place: the sum was")
def momentum_detach():
    return momentum_with(lambda g, m: g.detach(), lambda s, g, m: s.mul_(m).add_(g))


@mutant("5.7", "the memory copied too late", says="the new gradient alone|the sum was")
def momentum_copied_late():
    return momentum_with(lambda g, m: g, lambda s, g, m: (m * s + g).clone())


@mutant("5.7", "a running mean", says="running mean|step 1")
def momentum_mean():
    return momentum_with(lambda g, m: g.clone(), lambda s, g, m: m * s + (1 - m) * g)


@mutant("5.7", "forgets at each step", says="remembers nothing")
def momentum_forgets():
    return momentum_with(lambda g, m: g.clone(), lambda s, g, m: g.clone())


# 5.8


def causes_but(**changed):
    return {letter: cause for letter, (cause, _) in RUNS.items()} | changed


@right("5.8", "in another order")
def causes_reversed():
    return dict(reversed(causes_but().items()))


@mutant("5.8", "early harm taken for too low a rate", says="3 of 5. Run A.*nothing jumps")
def causes_low():
    return causes_but(A="rate too low", C="no warm-up")


@mutant("5.8", "the trembling run taken for the good one", says="Run B is not 'fine'")
def causes_tremble():
    return causes_but(B="fine", D="no decay")


@mutant("5.8", "a name that is none", says="none of the causes")
def causes_unknown():
    return causes_but(E="overfitting")


@mutant("5.8", "a letter left out", says="run D has no cause")
def causes_short():
    return {letter: cause for letter, cause in causes_but().items() if letter != "D"}


# 5.9

T = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764, 6: 2.5706, 7: 2.4469}
LOSSES = {  # what the notebook's runs gave on one machine
    0.003: [1.593, 1.313, 1.31, 2.247, 1.571],
    0.01: [1.468, 1.199, 1.2, 2.159, 1.438],
    0.015: [1.473, 1.205, 1.215, 2.158, 1.437],
}


def interval_with(half, sign=1):
    """The interval of a mean difference, with `half(first, second, gaps)` on each side."""

    def interval(first, second):
        first, second = torch.tensor(first), torch.tensor(second)
        gaps = sign * (first - second)
        mean, wide = gaps.mean().item(), float(half(first, second, gaps))
        return mean, mean - wide, mean + wide

    return interval


def standard(first, second, gaps):
    return T[len(gaps)] * gaps.std() / len(gaps) ** 0.5


@right("5.9", "a finer table, plain Python")
def interval_plain():
    def interval(first, second):
        gaps = [a - b for a, b in zip(first, second, strict=True)]
        n, mean = len(gaps), sum(gaps) / len(gaps)
        squares = sum(gap * gap for gap in gaps) - n * mean * mean
        half = T[n] * math.sqrt(squares / (n - 1) / n)
        return [mean, mean - half, mean + half]

    return interval, copy.deepcopy(LOSSES), (True, False)


@right("5.9", "a tensor of three")
def interval_tensor():
    inner = interval_with(standard)
    return lambda a, b: torch.tensor(inner(a, b)), LOSSES, torch.tensor([True, False])


@mutant("5.9", "each side's own spread", says="pair by pair")
def interval_unpaired():
    def half(first, second, gaps):
        return T[len(gaps)] * ((first.var() + second.var()) / len(gaps)) ** 0.5

    return interval_with(half), LOSSES, [True, False]


@mutant("5.9", "1.96 for so few", says="for many pairs")
def interval_normal():
    half = lambda first, second, gaps: 1.96 * gaps.std() / len(gaps) ** 0.5
    return interval_with(half), LOSSES, [True, False]


@mutant("5.9", "the t of three for any number", says="6 pairs here, and your t is the one for 3")
def interval_one_t():
    half = lambda first, second, gaps: 4.303 * gaps.std() / len(gaps) ** 0.5
    return interval_with(half), LOSSES, [True, False]


@mutant("5.9", "squares divided by n", says="n - 1")
def interval_biased():
    half = lambda first, second, gaps: T[len(gaps)] * gaps.std(correction=0) / len(gaps) ** 0.5
    return interval_with(half), LOSSES, [True, False]


@mutant("5.9", "the spread of one difference", says="of one difference")
def interval_single():
    return interval_with(lambda a, b, gaps: T[len(gaps)] * gaps.std()), LOSSES, [True, False]


@mutant("5.9", "second - first", says="first - second")
def interval_turned():
    return interval_with(standard, sign=-1), LOSSES, [True, False]


@mutant("5.9", "believes every difference", says="holds 0")
def interval_credulous():
    return interval_with(standard), LOSSES, [True, True]


@mutant("5.9", "believes none", says="0 is not in it")
def interval_sceptic():
    return interval_with(standard), LOSSES, [False, False]
