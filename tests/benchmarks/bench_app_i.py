"""Appendix I: logits beside transformers' own, and what loading takes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from shared.appendices import load_modern, loading_memory
from tests.test_app_i import KINDS, family, ids, save_large


def largest_difference() -> float:
    """Of any logit of any family at odd sizes, loaded from what transformers saved."""
    found = 0.0
    for kind in KINDS:
        theirs = family(kind)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            theirs.save_pretrained(folder, max_shard_size="20KB")
            ours = load_modern(folder)
            gap = (ours(ids(2, 13)) - theirs(ids(2, 13)).logits).abs().max()
        found = max(found, float(gap))
    return found


def rows() -> list[dict]:
    """Two rows; the second on Linux only."""
    gap = largest_difference()
    logits = {
        "figure": f"appendix I: largest difference of a logit to transformers, {len(KINDS)} kinds",
        "bar": "≤ 1e-4",
        "measured": f"{gap:.1e}",
        "met": gap <= 1e-4,
    }
    loading = {"figure": "appendix I: peak memory of loading 140 MB, × the weights", "bar": "≤ 1.1"}
    if not sys.platform.startswith("linux"):
        return [logits, loading | {"measured": "on Linux only", "met": None}]
    with tempfile.TemporaryDirectory() as folder:
        save_large(Path(folder))
        taken = loading_memory(folder)
    ratio = taken["peak"] / taken["weights"]
    note = "resident memory, mapped pages included, above a process with everything imported"
    return [logits, loading | {"measured": f"{ratio:.3f}", "met": ratio <= 1.1, "note": note}]
