"""Measure an entry: `make speedrun ENTRY=my_entry.py`, or see `--help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .board import HERE, add_record, draw, judge, read_board
from .measure import measure
from .rules import Refused


def find(entry: str) -> Path:
    """The script that is meant: a path, or a name in entries/, also its beginning.

    Raises:
        Refused: there is none, or several.
    """
    if (path := Path(entry)).suffix == ".py" and path.is_file():
        return path
    found = sorted((HERE / "entries").glob(f"{Path(entry).stem}*.py"))
    if len(found) != 1:
        there = ", ".join(p.stem for p in found or sorted((HERE / "entries").glob("*.py")))
        raise Refused(f"{entry}: expected a script, or the name of one entry; there are: {there}.")
    return found[0]


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if the entry was refused."""
    parser = argparse.ArgumentParser(prog="speedrun", description=__doc__)
    parser.add_argument("entry", nargs="?", help="a script, or a name in entries/ such as 01")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default 3)")
    parser.add_argument("--tokens", type=int, help="fewer or more than TOKENS, to try; no record")
    parser.add_argument("--record", action="store_true", help="if it is one, put it on the board")
    parser.add_argument("--board", action="store_true", help="draw the board again, run nothing")
    asked = parser.parse_args(arguments)
    try:
        if asked.board:
            draw()
            return 0
        if not asked.entry or (asked.record and asked.tokens):
            parser.print_usage(sys.stderr)
            print("Which entry? And a record is run with the entry's own TOKENS.", file=sys.stderr)
            return 1
        path = find(asked.entry)
        if asked.record and path.resolve().parent != HERE / "entries":
            raise Refused(f"{path.name}: a record's script lies in entries/; move it there first.")
        print(f"{path.stem}: {asked.seeds} seed{'s' * (asked.seeds != 1)}")
        result = measure(path, asked.seeds, asked.tokens)
        bound = f"at most {result['at_most']:.4f}" if asked.seeds > 1 else "one seed gives no bound"
        print(f"  mean {result['loss']:.4f} nats per token, {bound}")
        if asked.record:
            print("  " + add_record(result))
        elif all(record["script"] != result["script"] for record in read_board()["records"]):
            print("  " + judge(result, read_board()["records"]))
    except Refused as refusal:
        print(f"  refused: {refusal}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
