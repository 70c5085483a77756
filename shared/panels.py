"""Live panels: sliders over a plain function, drawn first with its default values."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets
from IPython.display import display


def panel(function: Callable[..., None], *, slow: bool = False, **controls) -> None:
    """Show sliders for the keyword arguments of `function` and redraw when one moves.

    Args:
        function: draws or prints; called once at once with the controls' starting values.
        slow: for what takes over a second: a Run button instead of redrawing on every move.
        controls: as in `ipywidgets.interact`: a widget, or a tuple `(low, high, step)`, a list
            of choices, a bool or a text. A pair `(value, control)` gives the starting value of
            a tuple or a list.

    Raises:
        ValueError: a control of a kind that no widget shows.

    Example:
        >>> panel(plot_softmax, temperature=(1.0, (0.1, 3.0, 0.1)), seed=(0, 9, 1))
    """
    made = {name: _control(name, control) for name, control in controls.items()}
    for name, widget in made.items():
        widget.description = name
        widget.style.description_width = "initial"
        widget.layout.width = "420px"
        if hasattr(widget, "continuous_update"):
            widget.continuous_update = False
    output = widgets.interactive_output(function, made) if not slow else widgets.Output()
    rows = list(made.values())
    if slow:
        button = widgets.Button(description="Run", button_style="primary")

        def run(_=None) -> None:
            output.clear_output(wait=True)
            with output:
                function(**{name: widget.value for name, widget in made.items()})

        button.on_click(run)
        rows.append(button)
    display(widgets.VBox([*rows, output]))


def _control(name: str, control) -> widgets.Widget:
    if isinstance(control, widgets.Widget):
        return control
    start = None
    if isinstance(control, tuple) and len(control) == 2 and isinstance(control[1], tuple | list):
        start, control = control
    widget = widgets.interactive(lambda **_: None, **{name: control}).children[0]
    if isinstance(widget, widgets.Output):
        raise ValueError(
            f"panel control {name}={control!r}: expected a widget, (low, high, step), "
            "a list of choices, a bool or a text"
        )
    if start is not None:
        widget.value = start
    return widget
