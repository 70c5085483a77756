"""The laptop speedrun: what the board says, and its best entry run once more, seed 0."""

from __future__ import annotations

from appendix.d_training_tricks.speedrun.board import HERE, read_board
from appendix.d_training_tricks.speedrun.measure import run_entry
from appendix.d_training_tricks.speedrun.rules import load_entry


def rows() -> list[dict]:
    """Tokens of the first entry over those of the best, and whether the best still does it."""
    board = read_board()
    first, best = board["records"][0], board["records"][-1]
    times = first["tokens"] / best["tokens"]
    run = run_entry(load_entry(HERE / "entries" / f"{best['entry']}.py"), seed=0, looks=())
    return [
        {
            "figure": "speedrun: the first entry's tokens over the best one's, same loss",
            "bar": "≥ 7×",
            "measured": f"{times:.1f}×",
            "met": times >= 7,
            "note": f"{first['tokens']:,} against {best['tokens']:,}; from the board",
        },
        {
            "figure": "speedrun: the best entry's loss, run again",
            "bar": f"< {board['target']:.3f} nats per token",
            "measured": f"{run.loss:.3f}",
            "met": run.loss < board["target"],
            "note": f"seed 0 alone, {run.seconds:.0f} core seconds; {best['entry']}",
        },
    ]
