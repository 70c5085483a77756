"""The board: which records stand, by which rule, as a table and as a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

from shared.artifacts import written_whole

from .rules import Refused
from .text import bytes_per_token, floor

HERE = Path(__file__).parent
COLOURS = ("#4c4c4c", "#8c510a", "#bf812d", "#c7a54a", "#80b1a8", "#35978f", "#01665e", "#3b6ea8")
COLOURS += ("#5e4fa2", "#9e3d8a", "#c51b7d", "#d7301f")


def read_board(folder: Path = HERE) -> dict:
    """The board as it stands; an empty one where there is none."""
    path = folder / "board.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {"records": []}


def judge(result: dict, records: list[dict]) -> str:
    """Say why a result is a record. The first entry sets the target.

    Raises:
        Refused: it is none; the message says what is missing.
    """
    if not records:
        return f"the first entry sets the target: {result['loss']:.3f} nats per token"
    target, best = round(records[0]["loss"], 3), records[-1]
    name, seeds = result["entry"], len(result["runs"])
    if seeds < 3:
        raise Refused(f"{name}: {seeds} seeds, and a record needs 3 or more.")
    if result["tokens"] >= best["tokens"]:
        raise Refused(
            f"{name}: {result['tokens']:,} tokens; the record, {best['entry']}, took "
            f"{best['tokens']:,}. Lower TOKENS."
        )
    if not result["at_most"] < target:
        raise Refused(
            f"{name}: mean loss {result['loss']:.4f}, and 19 times in 20 below "
            f"{result['at_most']:.4f}; the target is {target:.3f}. More tokens, or more seeds."
        )
    return (
        f"a record: {result['tokens']:,} tokens, {records[0]['tokens'] / result['tokens']:.1f} "
        f"times fewer than the first; loss below {result['at_most']:.4f}, target {target:.3f}"
    )


def add_record(result: dict, folder: Path = HERE) -> str:
    """Put a record on the board, its runs into results/, and draw both pictures of it again.

    Raises:
        Refused: it is no record.
    """
    board = read_board(folder)
    verdict = judge(result, board["records"])
    kept = {key: value for key, value in result.items() if key != "runs"}
    kept["losses"] = [round(run["loss"], 4) for run in result["runs"]]
    board["records"].append({"number": len(board["records"]) + 1} | kept)
    board["target"] = round(board["records"][0]["loss"], 3)
    (folder / "results").mkdir(exist_ok=True)
    _write(folder / "results" / f"{result['entry']}.json", json.dumps(result, indent=1) + "\n")
    _write(folder / "board.json", json.dumps(board, indent=1, ensure_ascii=False) + "\n")
    draw(folder)
    return verdict


def draw(folder: Path = HERE) -> None:
    """Write board.md and board.svg from board.json and results/."""
    board = read_board(folder)
    _write(folder / "board.md", board_text(board))
    _write(folder / "board.svg", board_picture(board, folder))


def _write(path: Path, text: str) -> None:
    with written_whole(path) as new:
        new.write_text(text, encoding="utf-8")


def board_text(board: dict) -> str:
    """The board as Markdown."""
    records, target = board["records"], board["target"]
    bits = target / math.log(2) / bytes_per_token()
    lines = [
        "# The board",
        "",
        f"Target: **{target:.3f} nats per token** on the held-out stories, which is "
        f"{bits:.3f} bits per byte; their teller's own entropy, the floor, is {floor():.3f} nats. "
        "Made by the runner: change nothing here by hand.",
        "",
        "| record | date | entry | the idea | tokens | times fewer | seeds: loss, and at most "
        "| core seconds | numbers learned | lines |",
        "| --: | --- | --- | --- | --: | --: | --- | --: | --: | --: |",
    ]
    for record in records:
        name = record["entry"]
        lines.append(
            f"| {record['number']} | {record['date']} | [{name}](entries/{name}.py) "
            f"| {record['idea']} | {record['tokens']:,} "
            f"| {records[0]['tokens'] / record['tokens']:.1f} "
            f"| {len(record['losses'])}: {record['loss']:.3f}, {record['at_most']:.3f} "
            f"| {record['seconds']:.0f} | {record['numbers']:,} | {record['lines']} |"
        )
    machines = sorted({record["machine"] for record in records})
    lines += [
        "",
        "'At most': 19 times in 20, the mean over all seeds there are lies below this (one-sided, "
        "Student's t). A record's lies below the target; the first entry's own mean is the target.",
        "",
        "Measured on: " + "; ".join(machines) + ".",
        "",
        "![Loss against tokens, one curve for each record](board.svg)",
        "",
    ]
    return "\n".join(lines)


def board_picture(board: dict, folder: Path = HERE) -> str:
    """The mean curve of each record, loss against tokens (logarithmic), as SVG."""
    curves = []
    for record in board["records"]:
        result = json.loads((folder / "results" / f"{record['entry']}.json").read_text("utf-8"))
        runs = [run["curve"] for run in result["runs"]]
        points = [
            (sum(p[0] for p in look) / len(look), sum(p[1] for p in look) / len(look))
            for look in zip(*runs, strict=True)
        ]
        curves.append((record["entry"], points))
    width, height, left, top, right, bottom = 860, 470, 56, 20, 176, 44
    low_x = min(p[0] for _, points in curves for p in points)
    high_x = max(p[0] for _, points in curves for p in points)
    high_y = min(7.6, max(p[1] for _, points in curves for p in points))
    low_y = min(board["target"], *(p[1] for _, points in curves for p in points)) - 0.3
    span = math.log(high_x / low_x) or 1.0

    def x(tokens: float) -> float:
        return left + (width - left - right) * math.log(tokens / low_x) / span

    def y(loss: float) -> float:
        share = (high_y - min(loss, high_y)) / (high_y - low_y)
        return top + (height - top - bottom) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for power in range(10, 21):
        if low_x <= 2**power <= high_x:
            at = x(2**power)
            parts.append(
                f'<path d="M{at:.1f} {top}V{height - bottom}" stroke="#e6e6e6"/>'
                f'<text x="{at:.1f}" y="{height - bottom + 16}" text-anchor="middle" '
                f'fill="#444">{2**power:,}</text>'
            )
    for loss in range(math.ceil(low_y), math.floor(high_y) + 1):
        parts.append(
            f'<path d="M{left} {y(loss):.1f}H{width - right}" stroke="#e6e6e6"/>'
            f'<text x="{left - 8}" y="{y(loss) + 4:.1f}" text-anchor="end" '
            f'fill="#444">{loss}</text>'
        )
    goal = y(board["target"])
    parts.append(
        f'<path d="M{left} {goal:.1f}H{width - right}" stroke="#222" stroke-dasharray="5 4"/>'
        f'<text x="{left + 6}" y="{goal + 15:.1f}" fill="#222">target {board["target"]:.3f}</text>'
    )
    for number, (name, points) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{x(tokens):.1f} {y(loss):.1f}" for tokens, loss in points)
        end_x, end_y = x(points[-1][0]), y(points[-1][1])
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="4" fill="{colour}"/>'
            f'<path d="M{width - right + 14} {top + 10 + 20 * number}h18" stroke="{colour}" '
            f'stroke-width="3"/><text x="{width - right + 38}" y="{top + 14 + 20 * number}" '
            f'fill="#222">{name}</text>'
        )
    parts += [
        f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle" '
        'fill="#222">tokens of text read while learning</text>',
        f'<text transform="translate(16 {(top + height - bottom) / 2}) rotate(-90)" '
        'text-anchor="middle" fill="#222">held-out loss, nats per token</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
