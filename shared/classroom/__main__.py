"""The command line of the teacher's side; see appendix/teaching/README.md."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from shared.artifacts import artifacts_folder
from shared.classroom import release as releasing
from shared.classroom.grade import WORKERS, cage_for, grade_class
from shared.classroom.jail import JailError, Limits
from shared.classroom.report import read_policy, write_reports
from shared.classroom.submissions import read_key
from shared.exercises.build import BuildError
from shared.export import ExportError

PROBLEMS = (BuildError, ExportError, JailError, OSError, ValueError)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m shared.classroom")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("release", help="make the students' copy of a chapter")
    two = commands.add_parser("nbgrader", help="add a chapter to a course folder of nbgrader's")
    three = commands.add_parser("grade", help="grade FOLDER/submitted/STUDENT/…")
    for command in (one, two, three):
        command.add_argument("chapter", type=releasing.label_of, help="3, or F for an appendix")
    one.add_argument("--to", type=Path, metavar="FOLDER", help="default: artifacts/release/chNN")
    two.add_argument("--to", type=Path, metavar="FOLDER", required=True)
    three.add_argument("folder", type=Path)
    limits = Limits()
    three.add_argument("--cell-seconds", type=float, default=limits.cell_seconds)
    three.add_argument("--total-seconds", type=float, default=limits.total_seconds)
    three.add_argument("--memory", type=float, default=limits.memory / 2**30, metavar="GB")
    three.add_argument("--workers", type=int, default=WORKERS, help="kernels at a time")
    three.add_argument("--again", action="store_true", help="even what has not changed")
    three.add_argument(
        "--no-jail", action="store_true", help="run students' code in the open: on your own risk"
    )
    return parser.parse_args(arguments)


def grade(options: argparse.Namespace) -> int:
    """Grade a class and write its reports; the exit status."""
    folder, key = options.folder.resolve(), read_key(options.chapter)
    read_policy(folder, key)  # what is wrong with it is told before the work, not after
    memory = int(options.memory * 2**30)
    limits = Limits(options.cell_seconds, options.total_seconds, memory)
    with cage_for(key, limits, not options.no_jail, secrets=(folder,)) as cage:
        try:
            say = lambda line: print(line, flush=True)
            results, failed = grade_class(folder, key, cage, say, options.again, options.workers)
        except KeyboardInterrupt:
            print("\nStopped. What is graded is kept; the same command goes on from here.")
            shutil.rmtree(cage.course, ignore_errors=True)
            sys.stdout.flush()
            os._exit(130)  # without waiting for the kernels, which end with this process
    pairs = write_reports(folder, results, key)
    name = key.label
    print(f"{folder}: marks_{name}.csv, class_{name}.png, feedback/")
    if pairs:
        print(f"Nearly the same, a place to look (alike_{name}.csv):")
    for pair in pairs[:10]:
        print(f"  {pair.students[0]} and {pair.students[1]}: {pair.alike:.0%}")
    for line in failed:
        print(f"NOT graded: {line}", file=sys.stderr)
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = options_of(arguments)
    name = options.chapter
    try:
        if options.command == "grade":
            return grade(options)
        if options.command == "nbgrader":
            print(releasing.nbgrader_course(options.chapter, options.to))
            print(f"Now, in {options.to}: nbgrader generate_assignment {name}")
            return 0
        folder = options.to or artifacts_folder() / "release" / name
        print(f"{folder} and {releasing.release(options.chapter, folder)}")
        return 0
    except PROBLEMS as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
