"""The check of the reader's machine, and the estimate of the chapters' times."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from shared import machine
from shared.machine import CHAPTERS, Speed, calibrate, check_machine, expected_seconds


def test_this_machine_is_ready(capsys):
    assert check_machine() is True
    out = capsys.readouterr().out
    assert "✗" not in out and out.endswith("Ready.\n")
    assert "PyTorch" in out and "memory" in out and "disk" in out


def test_pins_are_read_from_requirements():
    pins = dict(machine.pinned_packages())
    assert {"torch", "numpy", "tiktoken"} <= pins.keys()
    assert machine.pinned_packages(machine.ROOT / "no such file") == []


def test_missing_and_other_packages_are_told_apart(monkeypatch, capsys):
    pins = [("numpy", importlib.metadata.version("numpy")), ("no-such-thing", "1.0")]
    monkeypatch.setattr(machine, "pinned_packages", lambda: pins)
    finding = machine._packages()
    assert finding.good is False and "missing: no-such-thing==1.0" in finding.found
    assert "pip install -r requirements.txt" in str(finding)
    assert check_machine() is False and "Not ready yet" in capsys.readouterr().out
    monkeypatch.setattr(machine, "pinned_packages", lambda: [("numpy", "0.1")])
    finding = machine._packages()
    assert finding.good is None and "tested: 0.1" in finding.found


@pytest.mark.parametrize(
    ("version", "good"),
    [((3, 10, 4), False), ((3, 11, 0), True), ((3, 12, 9), True), ((3, 14, 1), None)],
)
def test_python_versions(monkeypatch, version, good):
    monkeypatch.setattr(machine, "sys", SimpleNamespace(version_info=version))
    assert machine._python().good is good


@pytest.mark.parametrize(("free", "good"), [(0.5e9, False), (2e9, None), (9e9, True)])
def test_memory(monkeypatch, free, good):
    monkeypatch.setattr(machine, "memory_bytes", lambda: (16e9, free))
    assert machine._memory().good is good


def test_disk_full_and_unwritable(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=5e8))
    assert machine._disk().good is False
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "file" / "in the way"))
    assert "COURSE_ARTIFACTS" in machine._disk().advice


def test_it_runs_where_pytorch_is_missing():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['psutil'] = None\n"
        "from shared.machine import check_machine; assert check_machine() is False"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "✗ PyTorch" in done.stdout and "make lab" in done.stdout


def test_twice_as_slow_takes_twice_as_long():
    reference = Speed(python=0.1, torch=0.2)
    same = dict(expected_seconds(reference, reference))
    slow = dict(expected_seconds(Speed(python=0.2, torch=0.4), reference))
    for chapter in CHAPTERS[:5]:
        assert same[chapter] == pytest.approx(chapter.python_seconds + chapter.torch_seconds)
        assert slow[chapter] == pytest.approx(2 * same[chapter])
    assert len(same) == sum(c.torch_seconds is not None for c in CHAPTERS)


def test_calibration_measures_and_disturbs_nobody():
    import torch

    before = torch.random.get_rng_state()
    speed = calibrate(seconds=0.01)
    assert torch.equal(before, torch.random.get_rng_state())
    assert 0 < speed.python < 10 and 0 < speed.torch < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of Linux's C library")
def test_freed_memory_is_kept_for_the_next_tensor():
    code = (
        "import os, resource, torch\n"
        "from shared.machine import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20): torch.zeros(10_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); before = faults(); kept = keep_freed_memory(); faults(); after = faults()\n"
        "assert kept or 'CS_GNU_LIBC_VERSION' not in os.confstr_names, 'glibc can'\n"
        "assert not kept or after < before / 4, (before, after)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_other_systems_manage_their_memory_themselves(monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "win32")
    assert machine.keep_freed_memory() is False


def test_the_line_for_a_results_file_counts_rightly(monkeypatch):
    monkeypatch.setattr(machine, "processor_name", lambda: "Abacus 3")
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine.machine_line() == f"Abacus 3, 2 cores, 1 thread, torch {torch.__version__}"


def test_a_processor_without_a_name_tells_its_kind(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    assert machine.processor_name() == "riscv64"
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Abacus 3 @ 1 Hz\nmodel\t\t: 7\n"
    )
    assert machine.processor_name() == "Abacus 3 @ 1 Hz"
