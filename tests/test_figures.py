"""Figures: one look, readable numbers, nothing left open."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from shared.figures import COLOURS, heatmap, show, use_style


@pytest.fixture
def ax():
    use_style()
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def test_the_style_sets_the_courses_colours():
    use_style()
    assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS)


def test_a_heatmap_writes_each_number_in_its_place(ax):
    values = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.125, 0.75]], requires_grad=True)
    heatmap(ax, values, ["a", "b"], ["x", "y", "long word"], numbers=".2f", title="t")
    texts = {tuple(int(v) for v in t.get_position()): t.get_text() for t in ax.texts}
    assert texts[2, 0] == "1.00" and texts[0, 1] == "0.50" and len(texts) == 6
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "long word"]
    assert ax.get_title(loc="left") == "t"


def test_numbers_are_light_on_dark_cells_and_dark_on_light_ones(ax):
    heatmap(ax, np.array([[0.0, 1.0]]), numbers=".1f")
    light, dark = ax.texts
    assert to_rgb(light.get_color()) == (0, 0, 0) and to_rgb(dark.get_color()) == (1, 1, 1)


def test_a_heatmap_takes_half_precision_and_lists(ax):
    heatmap(ax, torch.ones(2, 3, dtype=torch.bfloat16), numbers=".0f")
    heatmap(ax, [[1, 2], [3, 4]], numbers="d")
    assert [t.get_text() for t in ax.texts] == ["1"] * 6 + ["1", "2", "3", "4"]


@pytest.mark.filterwarnings("error")
def test_show_leaves_no_figure_open_and_is_silent_without_a_screen():
    plt.subplots()
    plt.subplots()
    show()
    assert plt.get_fignums() == []
