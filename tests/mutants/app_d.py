"""Wrong and other right answers to appendix D's exercises."""

from __future__ import annotations

import math
import statistics

import torch
from torch.nn import functional as F

from shared.previous_chapters import IGNORED
from tests.mutants.cases import mutant, right

# D.1


def bites_answer(weight, reduction="mean", keep_all=True):
    """Bites, each weighted by `weight(bite, bites)`."""

    def run(model, bites):
        loss = 0.0
        for bite in bites if keep_all else bites[-1:]:
            logits = model(bite[0]).flatten(0, 1)
            part = F.cross_entropy(
                logits, bite[1].flatten(), ignore_index=IGNORED, reduction=reduction
            )
            part = part * weight(bite, bites)
            part.backward()
            loss += part.item()
        return loss

    return run


def asked(bites) -> int:
    return sum(int((y != IGNORED).sum()) for _, y in bites)


@right("D.1", "all losses in one row, then one backward")
def bites_at_once():
    def run(model, bites):
        logits = torch.cat([model(x).flatten(0, 1) for x, _ in bites])
        targets = torch.cat([y.flatten() for _, y in bites])
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        loss.backward()
        return loss.item()

    return run


@right("D.1", "means weighted by targets, silent bites passed over")
def bites_weighted():
    def run(model, bites):
        inner = bites_answer(lambda bite, _: asked([bite]) / asked(bites))
        return inner(model, [bite for bite in bites if asked([bite])])

    return run


@mutant("D.1", "as given: by places", says="same say")
def bites_places():
    return bites_answer(lambda b, bs: b[0].numel() / sum(x.numel() for x, _ in bs))


@mutant("D.1", "the mean of means", says="same say")
def bites_means():
    return bites_answer(lambda _, bites: 1 / len(bites))


@mutant("D.1", "by rows", says="same say")
def bites_rows():
    return bites_answer(lambda b, bs: len(b[0]) / sum(len(x) for x, _ in bs))


@mutant("D.1", "never divided", says="times as long")
def bites_sum():
    return bites_answer(lambda *_: 1.0, reduction="sum")


@mutant("D.1", "a silent bite is 0/0", says="0/0")
def bites_silent():
    return bites_answer(lambda b, bs: asked([b]) / asked(bs))


@mutant("D.1", "only the last bite", says="same say|times as long")
def bites_last():
    return bites_answer(lambda b, bs: asked([b]) / asked(bs), keep_all=False)


# D.2


def means_answer(power=lambda t: t, carry=False, first=False, check=True):
    def run(values, keep):
        if check and not 0 <= keep < 1:
            raise ValueError(f"keep={keep}")
        mean, out = (values[0] if first else 0.0), []
        for t, value in enumerate(values, 1):
            mean = keep * mean + (1 - keep) * value
            corrected = mean / (1 - keep ** power(t))
            out.append(corrected)
            mean = corrected if carry else mean
        return out

    return run


@right("D.2", "a sum of weights beside the sum of values")
def means_two_sums():
    def run(values, keep):
        if keep < 0 or keep >= 1:
            raise ValueError(f"keep is {keep}")
        total, weight, out = torch.zeros_like(values[0]), 0.0, []
        for value in values:
            total, weight = keep * total + value, keep * weight + 1
            out.append(total / weight)
        return out

    return run


@right("D.2", "a share that grows")
def means_growing_share():
    def run(values, keep):
        if not 0.0 <= keep < 1.0:
            raise ValueError(f"{keep} is no share")
        mean, out = torch.zeros_like(values[0]), []
        for t, value in enumerate(values, 1):
            mean = mean + (value - mean) * (1 - keep) / (1 - keep**t)
            out.append(mean)
        return tuple(out)

    return run


@mutant("D.2", "not corrected", says="before it is made up")
def means_plain():
    return means_answer(power=lambda t: math.inf)


@mutant("D.2", "counts from zero", says="ZeroDivisionError|nan|inf")
def means_from_zero():
    return means_answer(power=lambda t: t - 1)


@mutant("D.2", "the corrected one is carried on", says="carry on the plain one")
def means_carried():
    return means_answer(carry=True)


@mutant("D.2", "starts at the first value", says="starts at the first value")
def means_first():
    return means_answer(power=lambda t: math.inf, first=True)


@mutant("D.2", "one tensor, many times", says="same tensor")
def means_aliased():
    def run(values, keep):
        mean, out = torch.zeros_like(values[0]), []
        for value in values:
            mean.mul_(keep).add_((1 - keep) * value)
            out.append(mean)
        return [m / (1 - keep ** len(values)) for m in out]

    return run


@mutant("D.2", "takes any keep", says="ValueError|ZeroDivisionError")
def means_unchecked():
    return means_answer(check=False)


# D.3


def rates_answer(up=lambda i, w: (i + 1) / w, down=lambda j, d: math.sqrt((j + 1) / d), to=None):
    def run(steps, peak, warmup_steps, decay_steps, floor=0.0):
        if warmup_steps + decay_steps > steps:
            raise ValueError("too long")
        low = floor if to is None else to(peak, floor)
        rates = [peak * up(i, warmup_steps) for i in range(warmup_steps)]
        rates += [peak] * (steps - warmup_steps - decay_steps)
        return rates + [peak - (peak - low) * down(j, decay_steps) for j in range(decay_steps)]

    return run


@right("D.3", "one formula for each step")
def rates_by_step():
    def run(steps, peak, warmup_steps, decay_steps, floor=0.0):
        if steps < warmup_steps + decay_steps:
            raise ValueError(f"{steps} steps are too few")

        def rate(i):
            if i <= warmup_steps:
                return peak * i / warmup_steps
            j = max(0, i - (steps - decay_steps))
            return peak + (floor - peak) * (j / max(decay_steps, 1)) ** 0.5

        return [rate(i) for i in range(1, steps + 1)]

    return run


@right("D.3", "tensors")
def rates_tensor():
    def run(steps, peak, warmup_steps, decay_steps, floor=0.0):
        if steps < warmup_steps + decay_steps:
            raise ValueError(f"{steps} steps are too few")
        i = torch.arange(1, steps + 1, dtype=torch.double)
        up = torch.clamp(i / warmup_steps, max=1) if warmup_steps else torch.ones_like(i)
        j = torch.clamp(i - (steps - decay_steps), min=0)
        fall = (j / decay_steps).sqrt() if decay_steps else torch.zeros_like(i)
        return peak * up - (peak - floor) * fall

    return run


@mutant("D.3", "the first rate is 0", says="teaches nothing")
def rates_from_zero():
    return rates_answer(up=lambda i, w: i / w)


@mutant("D.3", "a straight fall", says="in the decay")
def rates_linear():
    return rates_answer(down=lambda j, d: (j + 1) / d)


@mutant("D.3", "never at the floor", says="the last step has")
def rates_fence():
    return rates_answer(down=lambda j, d: math.sqrt(j / d))


@mutant("D.3", "the root of what is left", says="in the decay")
def rates_other_root():
    return rates_answer(down=lambda j, d: 1 - math.sqrt(1 - (j + 1) / d))


@mutant("D.3", "always to zero", says="the last step has")
def rates_to_zero():
    return rates_answer(to=lambda peak, floor: 0.0)


@mutant("D.3", "too long a warm-up is cut", says="ValueError|rates for")
def rates_cut():
    def run(steps, peak, warmup_steps, decay_steps, floor=0.0):
        decay_steps = min(decay_steps, steps - warmup_steps)
        return rates_answer()(steps, peak, warmup_steps, decay_steps, floor)

    return run


# D.4

T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def ablation_answer(pair, factor=lambda n: T95[n - 1], sign=1):
    def run(losses):
        base, words = losses["baseline"], {}
        for name, found in losses.items():
            if name == "baseline":
                continue
            d = [sign * x for x in pair(found, base)]
            words[name] = "cannot tell"
            if len(d) > 1:
                half = factor(len(d)) * statistics.stdev(d) / len(d) ** 0.5
                low, high = statistics.mean(d) - half, statistics.mean(d) + half
                words[name] = "better" if high < 0 else "worse" if low > 0 else "cannot tell"
        return words

    return run


def by_seed(found, base):
    return [found[s] - base[s] for s in found.keys() & base.keys()]


@right("D.4", "Student's factors by hand")
def ablation_by_hand():
    return ablation_answer(by_seed)


@mutant("D.4", "pairs by position", says="by hand|another order")
def ablation_by_position():
    return ablation_answer(
        lambda found, base: [x - y for x, y in zip(found.values(), base.values(), strict=False)]
    )


@mutant("D.4", "the wrong way round", says="you say 'worse', expected 'better'")
def ablation_reversed():
    return ablation_answer(by_seed, sign=-1)


@mutant("D.4", "1.96, as with a thousand seeds", says="Student's factor")
def ablation_normal():
    return ablation_answer(by_seed, factor=lambda n: 1.96)


@mutant("D.4", "two columns, not paired", says="by hand|drops out")
def ablation_unpaired():
    def run(losses):
        base, words = list(losses["baseline"].values()), {}
        for name, found in losses.items():
            if name != "baseline":
                x = list(found.values())
                gap = statistics.mean(x) - statistics.mean(base)
                noise = sum(statistics.pvariance(v) / len(v) for v in (x, base))
                words[name] = "cannot tell"
                if abs(gap) > 2.3 * noise**0.5:
                    words[name] = "better" if gap < 0 else "worse"
        return words

    return run


@mutant("D.4", "one seed is enough", says="One seed has no interval|by hand")
def ablation_one_seed():
    def run(losses):
        words = ablation_answer(by_seed)(losses)
        for name in words:
            d = by_seed(losses[name], losses["baseline"])
            if len(d) == 1:
                words[name] = "better" if d[0] < 0 else "worse"
        return words

    return run
