"""Exercises that answer at once: `check` for what the reader writes, `ask` for quick questions.

The exercises of chapter 3 have their checks in `ch03.py`, and so on; `python -m shared.exercises`
makes the notebooks with blanks from the solved ones. A check knows what must hold, not how to
get there, so a student's copy of the course can carry it.

>>> from shared.exercises import ask, check, solved
>>> ask("3.a")                       # a question to click at
>>> check("3.2", cross_attention)    # right, or what is wrong with it
>>> if solved("3.2"): ...            # what one gets for it
"""

from shared.exercises.checking import Wrong, check, require, solved
from shared.exercises.questions import ask

__all__ = ["Wrong", "ask", "check", "require", "solved"]
