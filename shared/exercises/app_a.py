"""Checks of appendix A: a PyTorch primer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from shared.appendices import Scalar, backpropagate, scalar_tanh
from shared.exercises.checking import Wrong, exercise, expect, expect_same

# What each expression of A.1 is, and what to think about where a prediction of it is wrong.
EXPRESSIONS = (
    ("x * y", lambda x, y, z, batch: x * y, "write (5, 3) and (3,) one under the other."),
    ("x * z", lambda x, y, z, batch: x * z, "shapes are compared from the right."),
    ("x * z[:, None]", lambda x, y, z, batch: x * z[:, None], "z[:, None] is a column, (5, 1)."),
    ("z[:, None] - z", lambda x, y, z, batch: z[:, None] - z, "a column meets a plain list."),
    ("x.sum(dim=0)", lambda x, y, z, batch: x.sum(dim=0), "the axis summed over disappears."),
    ("batch @ x.T", lambda x, y, z, batch: batch @ x.T, "only the last two axes are multiplied."),
    (
        "batch.mean(dim=-1, keepdim=True)",
        lambda x, y, z, batch: batch.mean(dim=-1, keepdim=True),
        "keepdim leaves the axis, with length 1.",
    ),
    (
        "x @ y + z[:, None]",
        lambda x, y, z, batch: x @ y + z[:, None],
        "first the product: is it a column or a plain list? Then what does it meet?",
    ),
    (
        "x.T.view(15)",
        lambda x, y, z, batch: x.T.view(15),
        "in which order do the numbers of x.T lie in memory?",
    ),
    (
        "batch[:, -1]",
        lambda x, y, z, batch: batch[:, -1],
        "a whole number as an index makes its axis disappear; a slice does not.",
    ),
)


def outcome(expression, tensors: tuple) -> tuple | str:
    """The shape that comes out, or "error"."""
    try:
        return tuple(expression(*tensors).shape)
    except RuntimeError:
        return "error"


def as_prediction(given: Any, place: int) -> tuple | str:
    """A tuple of whole numbers, or "error", however it was written."""
    if isinstance(given, str):
        text = given.strip().lower()
        expect(text == "error", f"place {place}: {given!r}; a shape is written without quotes.")
        return text
    if isinstance(given, bool):
        raise Wrong(f"place {place}: {given!r}; a shape, such as (5, 3), or the text 'error'.")
    if isinstance(given, int):
        raise Wrong(f"place {place}: {given}; a shape of one axis is written ({given},).")
    if isinstance(given, tuple | list):
        return tuple(given)
    raise Wrong(f"place {place}: {given!r}; a shape, such as (5, 3), or the text 'error'.")


@exercise("A.1", "Ten shapes")
def ten_shapes(dice, answer):
    """`answer`: ten shapes or "error"."""
    expect(isinstance(answer, list | tuple), f"a list of ten, got {type(answer).__name__}.")
    expect(len(answer) == 10, f"ten predictions, one for each expression; there are {len(answer)}.")
    x, y = torch.randn(5, 3, generator=dice), torch.randn(3, generator=dice)
    z, batch = torch.randn(5, generator=dice), torch.randn(2, 5, 3, generator=dice)
    missed = []
    for place, (given, (text, compute, hint)) in enumerate(zip(answer, EXPRESSIONS, strict=True)):
        if as_prediction(given, place) != outcome(compute, (x, y, z, batch)):
            missed.append(f"place {place}, `{text}`: not {given!r}; {hint}")
    if missed:
        raise Wrong(f"{10 - len(missed)} of 10 are right. The first that is not: {missed[0]}")
    return "Say them before you run them, from now on."


def quotients(a: Any, b: Any, divide, tanh) -> Any:
    """A formula in which quotients are shared, nested and made from one number alone."""
    first = divide(a * b + a, b * b + b)
    return divide(first, tanh(a)) + first * b + divide(b, b)


@exercise("A.2", "Teach it to divide")
def teach_division(dice, answer):
    """`answer(a, b) -> Scalar`, at several places of either sign, alone and within a formula."""
    for top, bottom in ((6.0, 2.0), (6.0, 3.0), (-1.5, 0.4), (0.7, -2.5)):
        a, b = Scalar(top), Scalar(bottom)
        given = answer(a, b)
        where = f"{top:g} / {bottom:g}"
        if not isinstance(given, Scalar):
            raise Wrong(f"{where} gave a {type(given).__name__}; return a Scalar.")
        expect_same(given.value, top / bottom, f"the value of {where}")
        touched = "you wrote into `grad`. A step only leaves a note; `backpropagate` adds up."
        expect(a.grad == 0 and b.grad == 0, touched)
        backpropagate(given)
        expect(
            a.grad != 0 or b.grad != 0,
            f"{where} has the right value, but no slope comes through: who are its parents?",
        )
        expect_same(a.grad, 1 / bottom, f"the slope of {where} towards the top")
        slope = -top / bottom**2
        expect(
            abs(b.grad + slope) > 1e-6,
            f"the slope of {where} towards the bottom is {b.grad:.4g}: raise the bottom a little. "
            "Does the quotient rise or fall?",
        )
        expect_same(b.grad, slope, f"the slope of {where} towards the bottom")
    values = (torch.rand(2, generator=dice, dtype=torch.float64) + 0.5).tolist()
    ours = [Scalar(value) for value in values]
    backpropagate(quotients(*ours, answer, scalar_tanh))
    theirs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    quotients(*theirs, torch.div, torch.tanh).backward()
    for one, other, name in zip(ours, theirs, "ab", strict=True):
        told = f"alone it is right, but in a longer formula the slope towards {name}"
        expect_same(one.grad, other.grad.item(), told)
    return "PyTorch finds the same slopes in a formula of four quotients."


class Diary(nn.Module):
    """A linear layer that notes when it is computed and when slopes come back through it."""

    def __init__(self, dice: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, generator=dice))
        self.events: list[str] = []
        self.largest = 0

    def forward(self, x):
        out = torch.tanh(x @ self.weight)
        if out.requires_grad:
            self.largest = max(self.largest, len(x))
            self.events.append("forward")
            out.register_hook(lambda slopes: self.events.append("back"))
        return out


class Counted(torch.optim.SGD):
    """SGD that counts its steps."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


def mean_square(model, inputs, targets):
    """The mean over examples of the squared error, summed over the outputs."""
    return (model(inputs) - targets).square().sum(-1).mean()


@exercise("A.3", "One step from many parts")
def step_in_parts(dice, answer):
    """`answer(model, optimizer, parts, loss_of) -> float`, parts of unequal sizes."""
    first = int(torch.randint(4, 7, (1,), generator=dice))
    sizes = [first, 3, 1]
    inputs = torch.randn(sum(sizes), 3, generator=dice)
    targets = torch.randn(sum(sizes), 2, generator=dice) + inputs[:, :1]
    parts = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
    model, rate = Diary(dice), 0.1
    start, left_over = model.weight.detach().clone(), torch.ones(3, 2)
    whole = mean_square(model, inputs, targets)
    (slopes,) = torch.autograd.grad(whole, model.weight)
    means = [mean_square(model, *part) for part in parts]
    of_parts = [torch.autograd.grad(mean, model.weight)[0] for mean in means]
    model.weight.grad, model.events, model.largest = left_over.clone(), [], 0
    optimizer = Counted(model.parameters(), lr=rate)
    given = answer(model, optimizer, parts, mean_square)
    moved = (start - model.weight.detach()) / rate

    def is_move(other) -> bool:
        return torch.allclose(moved, other, atol=1e-4)

    expect(optimizer.steps > 0, "the optimizer made no step.")
    expect(
        optimizer.steps == 1,
        f"the optimizer made {optimizer.steps} steps; one step from all parts together.",
    )
    expect(
        model.largest <= max(sizes),
        f"you computed {model.largest} examples at once; the largest part has {max(sizes)}. "
        "Parts are there because all together do not fit into memory.",
    )
    gone = not is_move(torch.zeros(3, 2))
    expect(gone, "the step moved nothing: were the slopes forgotten before the step?")
    possible = (torch.zeros(3, 2), slopes, sum(of_parts), sum(of_parts) / len(parts))
    for left in (left_over + slope for slope in possible):
        expect(not is_move(left), "slopes from before the call are in your step; forget them.")
    expect(
        not is_move(sum(of_parts) / len(parts)),
        "your step is that of the mean of the parts' means. A part of one example counts as much "
        f"in it as a part of {max(sizes)}.",
    )
    expect(
        not is_move(sum(of_parts)),
        "your step is that of the sum of the parts' means; it grows with the number of parts.",
    )
    expect(
        not is_move(of_parts[-1]),
        "only the last part is in your step: are slopes forgotten inside the loop?",
    )
    expect_same(moved, slopes, "the slope that your step followed")
    expect(
        model.events == ["forward", "back"] * len(parts),
        "the step is right, but the notes of one part are still in memory when the next is "
        "computed. Walk back from each part before you compute the next.",
    )
    kept = isinstance(given, torch.Tensor) and given.requires_grad
    expect(not kept, "your loss still carries its notes and keeps them in memory: `.item()`.")
    expect_same(
        float_of(given, "the mean loss over all examples"), whole.item(), "the loss that you return"
    )
    return "The same step as with all examples at once."


def float_of(given: Any, what: str) -> float:
    """A plain number, from a number or a tensor that holds one."""
    if isinstance(given, torch.Tensor) and given.numel() == 1:
        return float(given)
    if isinstance(given, int | float):
        return float(given)
    raise Wrong(f"return {what}, a number; got {type(given).__name__}.")


@exercise("A.4", "A bug hunt: the best that is always the last")
def keep_the_best(dice, answer):
    """`answer(model, steps, train_one, validate) -> best loss`; the model is put back to it."""
    for losses in ([3.0, 1.0, 2.0], [5.0, 4.0, 0.5, 0.75, 2.0, 0.9], [2.0, 1.5], [1.0, 1.5, 1.2]):
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        seen: list[dict] = []

        def train_one(net, seen=seen):
            net.train()
            with torch.no_grad():
                net(torch.randn(4, 3, generator=dice))  # the running averages move
                for parameter in net.parameters():
                    parameter += torch.randn(parameter.shape, generator=dice)
            seen.append({name: t.clone() for name, t in net.state_dict().items()})

        def validate(net, seen=seen, losses=losses):
            expect(seen, "measured before the first step; measure after each step.")
            return losses[len(seen) - 1]

        given = answer(model, len(losses), train_one, validate)
        told = f"with the losses {losses}"
        expect(len(seen) == len(losses), f"{told}: {len(seen)} steps were made, not {len(losses)}.")
        expect_same(float_of(given, "the lowest loss"), min(losses), f"{told}, what you return")
        best, end = seen[losses.index(min(losses))], model.state_dict()
        apart = [name for name in best if not torch.equal(best[name], end[name])]
        learned = [name for name, _ in model.named_parameters()]
        where = next((i for i, s in enumerate(seen, 1) if same_in(s, end, learned)), None)
        should = losses.index(min(losses)) + 1
        if any(name in apart for name in learned):
            after = f"as after step {where}" if where else "as after none of the steps"
            raise Wrong(f"{told}, the model ends {after}; its best was after step {should}.")
        expect(
            not apart,
            f"{told}, what the model learned is put back, but not all that it keeps by name: "
            f"{', '.join(apart)} is as after another step.",
        )
    return "Measured, kept, put back."


def same_in(one: dict, other: dict, names: list[str]) -> bool:
    """Whether two state dicts agree in these names."""
    return all(torch.equal(one[name], other[name]) for name in names)
