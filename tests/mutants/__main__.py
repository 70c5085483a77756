"""`make mutants`: every wrong answer and what the reader is told, then the counts."""

from __future__ import annotations

import sys
from collections import Counter

from tests.mutants.cases import cases


def main(chosen: list[str]) -> int:
    """Print the table (of chosen exercises); 1 if an answer is judged as it should not be."""
    counts: Counter[tuple[bool, bool]] = Counter()
    missed = 0
    for case in cases():
        if chosen and not any(case.number.startswith(name) for name in chosen):
            continue
        verdict = case.verdict()
        good = case.goes_as_it_should(verdict)
        counts[case.is_right, verdict.right] += 1
        missed += not good
        kind = "right" if case.is_right else "wrong"
        line = " ".join(verdict.text.split())
        print(f"{'  ' if good else '!!'} {case.number:<5} {kind}  {case.what:<48.48}  {line[:110]}")
    wrong = counts[False, False] + counts[False, True]
    print(f"\n{counts[False, False]} of {wrong} wrong answers caught")
    others = counts[True, False] + counts[True, True]
    print(f"{counts[True, False]} of {others} right answers rejected")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
