"""Appendix A: the twenty-line autograd, against PyTorch's and against nudges."""

import math

import pytest
import torch

from shared.appendices import Scalar, backpropagate, scalar_tanh


def test_by_hand():
    a, b = Scalar(2.0), Scalar(3.0)
    result = (a + b) * b
    backpropagate(result)
    assert (result.value, a.grad, b.grad) == (15.0, 3.0, 8.0)


def test_a_number_used_many_times():
    x = Scalar(1.5)
    backpropagate(x * x * x + x)
    assert x.grad == pytest.approx(3 * 1.5**2 + 1)


def test_shared_intermediate_speaks_after_it_has_heard_from_all():
    # u is used by its own square and again at the end: an early word would carry half its slope
    x = Scalar(0.7)
    u = x * x
    v = u * u
    backpropagate(v * u)  # x⁶
    assert x.grad == pytest.approx(6 * 0.7**5)


def test_made_early_used_late():
    x = Scalar(2.0)
    early = x * x
    late = (x + x) * x
    backpropagate(late * early)  # 2·x⁴
    assert x.grad == pytest.approx(8 * 2.0**3)


def test_tanh_by_nudging():
    for value in (-2.0, -0.3, 0.0, 1.1):
        x = Scalar(value)
        backpropagate(scalar_tanh(x))
        nudged = (math.tanh(value + 1e-6) - math.tanh(value - 1e-6)) / 2e-6
        assert x.grad == pytest.approx(nudged, abs=1e-8)


def test_given_numbers_gather_and_made_ones_start_anew():
    a, b = Scalar(2.0), Scalar(3.0)
    between = a + b
    result = between * b
    backpropagate(result)
    backpropagate(result)
    assert (a.grad, b.grad) == (6.0, 16.0), "twice what one walk gives, as in PyTorch"
    assert (between.grad, result.grad) == (3.0, 1.0)


def test_a_given_number_is_its_own_slope():
    x = Scalar(4.0)
    backpropagate(x)
    assert x.grad == 1.0


def test_a_long_chain():
    x = Scalar(1.0)
    total = x
    for _ in range(5000):  # deeper than Python lets functions call themselves
        total = total + x
    backpropagate(total)
    assert x.grad == 5001.0


@pytest.mark.parametrize("seed", range(5))
def test_random_formulas_have_torchs_slopes(seed):
    dice = torch.Generator().manual_seed(seed)
    draw = lambda n: int(torch.randint(n, (1,), generator=dice))
    values = torch.randn(4, generator=dice, dtype=torch.float64).tolist()
    ours = [Scalar(value) for value in values]
    theirs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    for _ in range(25):
        kind, i, j = draw(3), draw(len(ours)), draw(len(ours))
        if kind == 0:
            ours.append(ours[i] + ours[j])
            theirs.append(theirs[i] + theirs[j])
        elif kind == 1:
            ours.append(scalar_tanh(ours[i] * ours[j]))
            theirs.append(torch.tanh(theirs[i] * theirs[j]))
        else:
            ours.append(scalar_tanh(ours[i]))
            theirs.append(torch.tanh(theirs[i]))
    total, their_total = ours[0], theirs[0]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        total, their_total = total + one, their_total + other
    backpropagate(total)
    their_total.backward()
    assert total.value == pytest.approx(their_total.item(), rel=1e-12)
    for one, other in zip(ours[:4], theirs[:4], strict=True):
        assert one.grad == pytest.approx(other.grad.item(), rel=1e-10)


@pytest.mark.parametrize("value", ["2", None, Scalar(1.0), torch.tensor(2.0)])
def test_a_scalar_holds_a_number(value):
    with pytest.raises(TypeError, match="holds one number, got"):
        Scalar(value)
