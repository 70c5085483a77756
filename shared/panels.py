"""Live panels: sliders over a plain function, drawn first with its starting values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from ipywidgets.widgets.interaction import show_inline_matplotlib_plots


def panel(function: Callable[..., Any], *, slow: bool = False, **controls) -> None:
    """Show sliders for the keyword arguments of `function` and redraw when one moves.

    Args:
        function: draws or prints. It is called here with the controls' starting values, so a
            mistake in it stops the cell, and the page keeps its picture without a live kernel.
        slow: for what takes over a second: a Run button instead of a redraw on every move, and
            no first call. Show a picture of it by a plain call before.
        controls: as in `ipywidgets.interact`: a widget, or a tuple `(low, high, step)`, a list
            of choices, a bool or a text. A pair `(value, control)` gives the starting value of
            a tuple or a list.

    Raises:
        ValueError: a control of a kind that no widget shows, or a starting value that it cannot
            take.
        TypeError: `function` does not take these arguments.

    Example:
        >>> panel(plot_softmax, temperature=(1.0, (0.1, 3.0, 0.1)), seed=(0, 9, 1))
    """
    made = {name: _control(name, control) for name, control in controls.items()}
    inspect.signature(function).bind(**{name: widget.value for name, widget in made.items()})
    for name, widget in made.items():
        widget.description = name
        widget.style.description_width = "initial"
        widget.layout.width = "420px"
        if hasattr(widget, "continuous_update"):
            widget.continuous_update = False
    output = widgets.Output()

    def draw() -> None:
        function(**{name: widget.value for name, widget in made.items()})
        show_inline_matplotlib_plots()

    def redraw(_=None) -> None:
        with output:  # shows an error where the picture would be
            output.clear_output(wait=True)
            draw()

    rows: list[widgets.Widget] = list(made.values())
    if slow:
        button = widgets.Button(description="Run", button_style="primary")
        button.on_click(redraw)
        rows.append(button)
    else:
        for widget in made.values():
            widget.observe(redraw, names="value")
        _first(draw, output)
    display(widgets.VBox([*rows, output]))


def _first(draw: Callable[[], None], output: widgets.Output) -> None:
    """Draw into `output`, and raise what it raises: the widget alone would only show it."""
    failure = None
    with output:
        try:
            draw()
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


def _control(name: str, control: Any) -> widgets.Widget:
    """The widget for one control, at its starting value."""
    start = None
    if isinstance(control, tuple) and len(control) == 2 and isinstance(control[1], tuple | list):
        start, control = control
    made = None
    try:
        if isinstance(control, widgets.ValueWidget):
            return control
        if control is not None and not isinstance(control, type):
            made = widgets.interactive.widget_from_abbrev(control)
    except (TypeError, ValueError) as error:
        raise ValueError(f"panel control {name}={control!r}: {error}") from None
    if not isinstance(made, widgets.ValueWidget) or getattr(made, "options", True) == ():
        raise ValueError(
            f"panel control {name}={control!r}: expected a widget, (low, high, step), "
            "a list of choices, a bool or a text"
        )
    if start is None:
        return made
    try:
        made.value = start
    except Exception:  # traitlets' own error does not name the control
        made.value = made.value
    if made.value != start:  # a slider moves what is out of range to its nearest end
        raise ValueError(
            f"panel control {name}: cannot start at {start!r}; choose a value within {control!r}"
        )
    return made
