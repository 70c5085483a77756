"""Is this machine ready for the course, and how long will each chapter take on it?

This module imports only the standard library at its top: it has to run where things are missing.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.artifacts import ROOT, artifacts_folder

GB = 1e9
INSTALL = "in a terminal, in the course's folder:  make lab  (or: pip install -r requirements.txt)"


@dataclass(frozen=True)
class Finding:
    """One line of the check. `good` is None where something may be better but need not be."""

    what: str
    found: str
    good: bool | None = True
    advice: str = ""

    def __str__(self) -> str:
        mark = {True: "✓", None: "!", False: "✗"}[self.good]
        return f"{mark} {self.what:<9} {self.found}" + (
            f"\n    → {self.advice}" * bool(self.advice)
        )


def check_machine() -> bool:
    """Print what the course needs and what is here, with what to do; return whether it can run.

    Example:
        >>> check_machine()  # doctest: +SKIP
        ✓ Python    3.11.7
    """
    ready = True
    for look in (_python, _packages, _torch, _device, _cores, _memory, _disk):
        finding = look()
        ready = ready and finding.good is not False
        print(finding)
    print("Ready." if ready else "Not ready yet: mend what is marked ✗, then run this cell again.")
    return ready


def _python() -> Finding:
    version = tuple(sys.version_info[:3])
    here = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("Python", here, False, "the course needs Python 3.11 or 3.12")
    if version >= (3, 13):
        return Finding("Python", here, None, "tested with 3.11 and 3.12; this may work too")
    return Finding("Python", here)


def _packages() -> Finding:
    missing, other, count = [], [], 0
    for name, pin in pinned_packages():
        count += 1
        try:
            version = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name}=={pin}")
            continue
        if version != pin:
            other.append(f"{name} {version} (tested: {pin})")
    if missing:
        return Finding("packages", "missing: " + ", ".join(missing), False, INSTALL)
    if other:
        return Finding("packages", "other versions: " + ", ".join(other), None, INSTALL)
    return Finding("packages", f"all {count} that requirements.txt names, in the tested versions")


def pinned_packages(path: Path = ROOT / "requirements.txt") -> list[tuple[str, str]]:
    """(name, version) of each line `name==version` in a requirements file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)


def _torch() -> Finding:
    try:
        import torch

        x = torch.ones(3, requires_grad=True)
        (x * x).sum().backward()
        right = x.grad.tolist() == [2.0, 2.0, 2.0]
    except Exception as error:  # a broken installation fails in many ways
        return Finding("PyTorch", f"does not work: {error}", False, INSTALL)
    return Finding("PyTorch", torch.__version__, right, "" if right else INSTALL)


def _device() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("device", "unknown without PyTorch", False, INSTALL)
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Finding("device", f"CUDA: {card.name}, {card.total_memory / GB:.0f} GB")
    if torch.backends.mps.is_available():
        return Finding("device", "MPS: the GPU of an Apple chip")
    if shutil.which("nvidia-smi"):
        return Finding(
            "device",
            "CPU, although an NVIDIA driver is installed",
            None,
            "the course runs on the CPU; to use the card, install the CUDA build of the same "
            "PyTorch version: pytorch.org, 'Get started', shows the line",
        )
    return Finding("device", "CPU: all that the course needs")


def _cores() -> Finding:
    cores = num_cores()
    try:
        import torch

        threads = torch.get_num_threads()
    except ImportError:
        return Finding("cores", str(cores))
    found = f"{cores}, PyTorch uses {threads}"
    if threads > cores:
        advice = f"start JupyterLab with OMP_NUM_THREADS={cores}: more threads than cores are slow"
        return Finding("cores", found, None, advice)
    if threads == 1 < cores:
        return Finding("cores", found, None, f"torch.set_num_threads({cores}) would be faster")
    return Finding("cores", found)


def _memory() -> Finding:
    total, free = memory_bytes()
    if total is None:
        return Finding("memory", "could not be read", None, "the course needs about 4 GB")
    found = f"{total / GB:.1f} GB, {free / GB:.1f} GB free"
    if free < 1.5 * GB:
        return Finding(
            "memory", found, False, "close other programs and notebooks: 2 GB are needed"
        )
    if free < 3 * GB:
        return Finding("memory", found, None, "shut down each notebook's kernel when it is done")
    return Finding("memory", found)


def _disk() -> Finding:
    try:
        folder = artifacts_folder()
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        advice = "let the environment variable COURSE_ARTIFACTS name a folder you may write to"
        return Finding("disk", f"cannot write: {error}", False, advice)
    free = shutil.disk_usage(folder).free
    if free < 1 * GB:
        return Finding("disk", f"{free / GB:.1f} GB free", False, "make room: 1 GB is needed")
    return Finding("disk", f"{free / GB:.0f} GB free for {folder.name}/")


def keep_freed_memory() -> bool:
    """Let this process keep what its tensors free, for the next ones; False where it cannot.

    The C library of Linux otherwise hands each large piece back to the system at once and gets
    another, which the system has to clear first. In short trainings that was 5 to 17 % of the time.

    Source: the manual page mallopt(3); M_TRIM_THRESHOLD is -1, M_MMAP_MAX is -4.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(-4, 0) and mallopt(-1, 2**31 - 1))


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """What the processor calls itself, or its kind where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_line() -> str:
    """One line for a results file: what computed it, with how many threads, which PyTorch.

    Example:
        >>> machine_line()  # doctest: +SKIP
        'Intel(R) Xeon(R) Processor @ 2.50GHz, 2 cores, 1 thread, torch 2.13.0+cpu'
    """
    import torch

    cores, threads = num_cores(), torch.get_num_threads()
    return (
        f"{processor_name()}, {cores} core{'s' * (cores != 1)}, "
        f"{threads} thread{'s' * (threads != 1)}, torch {torch.__version__}"
    )


def memory_bytes() -> tuple[int, int] | tuple[None, None]:
    """(total, free) memory in bytes, within a container's limit if there is one."""
    try:
        import psutil

        memory = psutil.virtual_memory()
    except ImportError:
        return None, None
    total, free = memory.total, memory.available
    try:  # control groups, version 2: what a container may use
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, limit - used)
    except (OSError, ValueError):
        pass
    return total, free


# --- how long the chapters take


@dataclass(frozen=True)
class Chapter:
    """A chapter, and its seconds on the reference machine: plain Python's and PyTorch's."""

    folder: str
    title: str
    makes: str
    python_seconds: float | None = None
    torch_seconds: float | None = None

    @property
    def is_here(self) -> bool:
        return (ROOT / self.folder / f"{self.folder}.ipynb").is_file()


# Seconds of a whole run at scale "laptop" on the reference machine: 2 cores, no GPU, nothing else
# running (a shared server, whose speed wanders by a third). `make course` prints such times.
CHAPTERS = (
    Chapter("ch01_intro", "What a language model is", "a model made of counts", 15, 8),
    Chapter("ch02_tokenization", "Text becomes numbers", "a tokenizer", 14, 2),
    Chapter("ch03_attention", "How words look at each other", "attention", 5, 13),
    Chapter("ch04_gpt_model", "The whole model", "a GPT, untrained", 4, 11),
    Chapter("ch05_pretraining", "Learning from text", "a GPT that tells stories", 30, 205),
    Chapter("ch06_classification_finetune", "One question about a text", "a classifier", 14, 205),
    Chapter("ch07_instruction_finetune", "Doing what it is asked", "an assistant", 35, 235),
)


@dataclass(frozen=True)
class Speed:
    """Seconds that one piece of work takes: one of plain Python, one of PyTorch."""

    python: float
    torch: float


REFERENCE = Speed(python=0.0096, torch=0.008)  # on the same machine; torch was 0.0067 to 0.0094


def calibrate(seconds: float = 1.0) -> Speed:
    """Measure this machine: a count over words, and a small training step.

    Each is repeated for about `seconds`, and its median stands for it, so that one hiccup does
    not count.
    """
    import torch

    words = [str(i * i % 997) for i in range(100_000)]
    with torch.random.fork_rng():  # initial weights; nobody's random numbers are disturbed
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(128, 512), torch.nn.GELU(), torch.nn.Linear(512, 128)
        )
        x = torch.randn(1024, 128)
    optimizer = torch.optim.AdamW(net.parameters())

    def count() -> None:
        Counter(zip(words, words[1:], strict=False))

    def step() -> None:
        loss = (net(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Speed(python=_median_seconds(count, seconds), torch=_median_seconds(step, seconds))


def _median_seconds(work: Callable[[], None], seconds: float) -> float:
    work()  # the first run is slower: memory is asked for, threads are started
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def expected_seconds(here: Speed, reference: Speed = REFERENCE) -> Iterator[tuple[Chapter, float]]:
    """(chapter, seconds that a run of it will take here) for each chapter of known duration.

    Example:
        >>> for chapter, seconds in expected_seconds(calibrate()):
        ...     print(chapter.title, round(seconds))
    """
    for chapter in CHAPTERS:
        if chapter.python_seconds is not None and chapter.torch_seconds is not None:
            slower_python, slower_torch = (
                here.python / reference.python,
                here.torch / reference.torch,
            )
            yield (
                chapter,
                chapter.python_seconds * slower_python + chapter.torch_seconds * slower_torch,
            )
