"""Wrong and other right answers to appendix A's exercises."""

from __future__ import annotations

import copy
import io

import torch

from shared.appendices import Scalar
from tests.mutants.cases import mutant, right

# A.1 Ten shapes

SHAPES = [(5, 3), "error", (5, 3), (5, 5), (3,), (2, 5, 5), (2, 5, 1), (5, 5), "error", (2, 3)]


def but(**changes):
    """The right ten with some places changed: but(_3=(5,))."""
    changed = list(SHAPES)
    for place, shape in changes.items():
        changed[int(place[1:])] = shape
    return changed


@right("A.1", "a tuple of torch's own sizes and lists, Error in capitals")
def shapes_otherwise_written():
    # a tuple within a tuple: a bare one would be ten answers
    return (tuple("Error" if s == "error" else torch.Size(s) for s in SHAPES),)


@mutant("A.1", "compared from the left", says="place 1, `x \\* z`.*from the right")
def shapes_from_the_left():
    return but(_1=(5, 3))


@mutant("A.1", "differences place by place", says="9 of 10.*place 3.*a column meets a plain list")
def shapes_column_is_a_list():
    return but(_3=(5,))


@mutant("A.1", "keepdim forgotten", says="place 6.*keepdim")
def shapes_without_keepdim():
    return but(_6=(2, 5))


@mutant("A.1", "an index taken for a slice", says="place 9.*makes its axis disappear")
def shapes_index_keeps():
    return but(_9=(2, 1, 3))


@mutant("A.1", "a number for a shape", says=r"written \(3,\)")
def shapes_number():
    return but(_4=3)


@mutant("A.1", "a shape in quotes", says="place 0.*without quotes")
def shapes_in_quotes():
    return but(_0="(5, 3)")


@mutant("A.1", "nine", says="there are 9")
def shapes_nine():
    return SHAPES[:9]


# A.2 Teach it to divide


def dividing(towards_top, towards_bottom):
    """An answer to A.2 with these slopes, each a function of a and b."""
    return lambda a, b: Scalar(
        a.value / b.value,
        ((a, towards_top(a.value, b.value)), (b, towards_bottom(a.value, b.value))),
    )


@right("A.2", "times the reciprocal")
def divide_by_reciprocal():
    return lambda a, b: a * Scalar(1 / b.value, ((b, -1 / b.value**2),))


@right("A.2", "slopes by nudging")
def divide_by_nudging():
    nudge = 1e-5
    bottom = lambda a, b: (a / (b + nudge) - a / (b - nudge)) / (2 * nudge)
    return dividing(lambda a, b: 1 / b, bottom)


@mutant("A.2", "no minus sign", says="rise or fall")
def divide_no_minus():
    return dividing(lambda a, b: 1 / b, lambda a, b: a / b**2)


@mutant("A.2", "b in place of b²", says="6 / 2 towards the bottom: -3, expected -1.5")
def divide_no_square():
    return dividing(lambda a, b: 1 / b, lambda a, b: -a / b)


@mutant("A.2", "the product's slopes", says="towards the top: 2, expected 0.5")
def divide_as_product():
    return dividing(lambda a, b: b, lambda a, b: a)


@mutant("A.2", "no parents", says="who are its parents")
def divide_orphan():
    return lambda a, b: Scalar(a.value / b.value)


@mutant("A.2", "a plain number", says="gave a float; return a Scalar")
def divide_plain():
    return lambda a, b: a.value / b.value


@mutant("A.2", "the bottom is a constant", says="towards the bottom: 0")
def divide_constant_bottom():
    return lambda a, b: a * Scalar(1 / b.value)


@mutant("A.2", "writes the slopes itself", says="only leaves a note")
def divide_writes():
    def divide(a, b):
        a.grad, b.grad = 1 / b.value, -a.value / b.value**2
        return Scalar(a.value / b.value)

    return divide


@mutant("A.2", "right only where the top is large", says="-1.5 / 0.4 towards the bottom")
def divide_right_at_some_places():
    return dividing(lambda a, b: 1 / b, lambda a, b: -a / b**2 if a > 1 else -a)


# A.3 One step from many parts


def stepping(weight, forget="before", walk="each", steps="one", given=None):
    """An answer to A.3: `weight(n, parts)` scales a part's loss."""

    def step_in_parts(model, optimizer, parts, loss_of):
        every = sum(len(x) for x, _ in parts)
        if forget == "before":
            optimizer.zero_grad()
        total, losses = 0.0, []
        for x, y in parts:
            if forget == "inside":
                optimizer.zero_grad()
            loss = loss_of(model, x, y)
            total += loss.item() * len(x) / every
            losses.append(loss * weight(len(x), parts))
            if walk == "each":
                losses[-1].backward()
            if steps == "each":
                optimizer.step()
        if walk == "end":
            sum(losses).backward()
        if forget == "late":
            optimizer.zero_grad()
        if steps == "one":
            optimizer.step()
        return total if given is None else given(losses, total)

    return step_in_parts


def share(n, parts):
    return n / sum(len(x) for x, _ in parts)


@right("A.3", "slopes gathered as sums, divided at the end")
def parts_divided_at_the_end():
    def step_in_parts(model, optimizer, parts, loss_of):
        for parameter in model.parameters():
            parameter.grad = None
        total = torch.zeros(())
        for x, y in parts:
            loss = len(x) * loss_of(model, x, y)
            loss.backward()
            total += loss.detach()
        examples = sum(len(x) for x, _ in parts)
        for parameter in model.parameters():
            parameter.grad /= examples
        optimizer.step()
        return total / examples

    return step_in_parts


@right("A.3", "slopes from torch.autograd.grad")
def parts_by_grad():
    def step_in_parts(model, optimizer, parts, loss_of):
        learned, total = list(model.parameters()), 0.0
        gathered = [torch.zeros_like(p) for p in learned]
        for x, y in parts:
            loss = loss_of(model, x, y)
            for held, slope in zip(gathered, torch.autograd.grad(loss, learned), strict=True):
                held += slope * share(len(x), parts)
            total += loss.item() * share(len(x), parts)
        for parameter, slope in zip(learned, gathered, strict=True):
            parameter.grad = slope
        optimizer.step()
        return total

    return step_in_parts


@mutant("A.3", "the mean of the means", says="counts as much")
def parts_mean_of_means():
    return stepping(lambda n, parts: 1 / len(parts))


@mutant("A.3", "the sum of the means", says="grows with the number of parts")
def parts_sum():
    return stepping(lambda n, parts: 1.0)


@mutant("A.3", "nothing forgotten", says="slopes from before")
def parts_left_over():
    return stepping(share, forget="never")


@mutant("A.3", "forgets inside the loop", says="slopes forgotten inside the loop|the slope that")
def parts_forget_inside():
    return stepping(lambda n, parts: 1.0, forget="inside")


@mutant("A.3", "forgets before the step", says="moved nothing")
def parts_forget_late():
    return stepping(share, forget="late")


@mutant("A.3", "a step after each part", says="made 3 steps")
def parts_many_steps():
    return stepping(share, steps="each")


@mutant("A.3", "no step", says="made no step")
def parts_no_step():
    return stepping(share, steps="none")


@mutant("A.3", "walks back once at the end", says="still in memory")
def parts_at_the_end():
    return stepping(share, walk="end")


@mutant("A.3", "all glued together", says="the largest part has")
def parts_glued():
    def step_in_parts(model, optimizer, parts, loss_of):
        optimizer.zero_grad()
        x, y = (torch.cat(side) for side in zip(*parts, strict=True))
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step_in_parts


@mutant("A.3", "a loss that keeps its notes", says="carries its notes")
def parts_keep_notes():
    return stepping(share, given=lambda losses, total: sum(losses))


@mutant("A.3", "the last part's loss", says="the loss that you return")
def parts_last_loss():
    return stepping(share, given=lambda losses, total: losses[-1].item())


@mutant("A.3", "no loss returned", says="a number; got NoneType")
def parts_nothing_returned():
    inner = stepping(share)
    return lambda *given: [inner(*given), None][1]


# A.4 A bug hunt: the best that is always the last


def keeping(take, put, better=lambda loss, best: loss < best):
    """An answer to A.4: `take(model)` is what is kept, `put(model, kept)` restores it."""

    def train_keeping_best(model, steps, train_one, validate):
        best_loss, kept = float("inf"), None
        for _ in range(steps):
            train_one(model)
            loss = validate(model)
            if better(loss, best_loss):
                best_loss, kept = loss, take(model)
        put(model, kept)
        return best_loss

    return train_keeping_best


def load(model, kept):
    model.load_state_dict(kept)


@right("A.4", "a deep copy of the whole model")
def best_deep_copy():
    return keeping(copy.deepcopy, lambda model, kept: model.load_state_dict(kept.state_dict()))


@right("A.4", "a file in memory")
def best_in_a_file():
    def take(model):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        return file

    def put(model, file):
        file.seek(0)
        model.load_state_dict(torch.load(file))

    return keeping(take, put)


@mutant("A.4", "as found", says="ends as after step 3; its best was after step 2")
def best_as_found():
    return keeping(lambda model: model.state_dict(), load)


@mutant("A.4", "a copy of the dictionary only", says="its best was after step 2")
def best_shallow():
    return keeping(lambda model: dict(model.state_dict()), load)


@mutant("A.4", "detached, which still shares", says="its best was after step 2")
def best_detached():
    return keeping(lambda m: {name: t.detach() for name, t in m.state_dict().items()}, load)


@mutant("A.4", "parameters only", says="not all that it keeps by name.*running_mean")
def best_without_buffers():
    def put(model, kept):
        with torch.no_grad():
            for parameter, numbers in zip(model.parameters(), kept, strict=True):
                parameter.copy_(numbers)

    return keeping(lambda model: [p.detach().clone() for p in model.parameters()], put)


@mutant("A.4", "kept, but never put back", says="its best was after step 2")
def best_not_put_back():
    return keeping(copy.deepcopy, lambda model, kept: None)


@mutant("A.4", "the highest loss", says="what you return|expected 1")
def best_is_worst():
    take = lambda model: copy.deepcopy(model.state_dict())
    return keeping(take, load, lambda loss, best: best == float("inf") or loss > best)


@mutant("A.4", "returns the model", says="return the lowest loss, a number; got")
def best_returns_model():
    inner = keeping(copy.deepcopy, lambda model, kept: model.load_state_dict(kept.state_dict()))
    return lambda model, *given: [inner(model, *given), model][1]


@mutant("A.4", "the last loss returned", says="what you return: 2, expected 1")
def best_returns_last():
    def train_keeping_best(model, steps, train_one, validate):
        best, kept, loss = float("inf"), None, None
        for _ in range(steps):
            train_one(model)
            loss = validate(model)
            if loss < best:
                best, kept = loss, copy.deepcopy(model.state_dict())
        model.load_state_dict(kept)
        return loss

    return train_keeping_best
