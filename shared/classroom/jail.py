"""A jail for a kernel, without Docker: bubblewrap (`bwrap`), which needs no administrator.

Inside there are the system's programs, this Python with its packages, and the students' copy of
the course, all read-only; a home and a /tmp of limited size that vanish afterwards; no network,
no other processes, nothing of the teacher's: no solutions, no other submissions.

    python -m shared.classroom.jail CONNECTION_FILE COURSE    for nbgrader's kernel, see release.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path(__file__).with_name("inside.py")
HOME = "/home/student"
OLDEST = (0, 7)  # the first bubblewrap that limits the size of a tmpfs


class JailError(RuntimeError):
    """There can be no jail here; says why and what to do."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    cell_seconds: float = 60
    total_seconds: float = 300
    memory: int = 4 << 30  # bytes: of one process's addresses, and of all together in memory
    processes: int = 64
    disk: int = 256 << 20  # bytes, for each of home, /tmp and /dev/shm


def probe() -> None:
    """Make sure that a jail can be had.

    Raises:
        JailError: bubblewrap is missing, too old, or not allowed to work.
    """
    way_out = (
        "Grading runs what students wrote, and refuses to do so in the open. On a machine of "
        "its own with nothing to lose, --no-jail grades without."
    )
    if not shutil.which("bwrap"):
        raise JailError(
            "bubblewrap is not installed (the program `bwrap`; on Debian and Ubuntu: "
            f"`sudo apt install bubblewrap`; there is none for Windows and macOS).\n{way_out}"
        )
    said = subprocess.run(["bwrap", "--version"], capture_output=True, text=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if version < OLDEST:
        raise JailError(f"{said.strip()} is too old; 0.7 or newer is needed.\n{way_out}")
    tried = subprocess.run([*base(Limits()), "true"], capture_output=True, text=True)
    if tried.returncode:
        raise JailError(
            f"bubblewrap cannot make a jail here: {tried.stderr.strip()}\nUnprivileged user "
            "namespaces may be switched off (on Ubuntu 24.04 by AppArmor: `sudo sysctl "
            f"kernel.apparmor_restrict_unprivileged_userns=0` allows them).\n{way_out}"
        )


def base(limits: Limits) -> list[str]:
    """The command of an empty jail: system and Python, nothing else; a command may follow."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    command += ["--cap-drop", "ALL", "--clearenv", "--hostname", "jail"]
    for folder in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    for file in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime"):
        command += ["--ro-bind-try", file, file]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", "/tmp", HOME):
        command += ["--size", str(limits.disk), "--tmpfs", folder]
    for folder in visible_python():
        command += ["--ro-bind", folder, folder]
    return command


def visible_python() -> list[str]:
    """The folders of this Python and its packages, outer ones first."""
    found = {sys.prefix, sys.base_prefix}
    if site.ENABLE_USER_SITE and os.path.isdir(site.getusersitepackages()):
        found.add(site.getusersitepackages())
    return sorted(folder for folder in found if not Path(folder).is_relative_to("/usr"))


def refuse_if_seen(*secrets: Path) -> None:
    """Make sure that none of these folders can be seen from inside.

    Raises:
        JailError: one lies in a folder that the jail shows.
    """
    for secret in secrets:
        for shown in ["/usr", *visible_python()]:
            if secret.resolve().is_relative_to(Path(shown).resolve()):
                raise JailError(f"{secret} lies in {shown}, which students' code can read: move it")


def environment(course: str, home: str, scratch: str) -> dict[str, str]:
    """What a kernel finds in its environment: one thread, no display, no bytecode written."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return threads | {
        "MALLOC_ARENA_MAX": "2",  # else each thread reserves addresses that count as memory
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": home,
        "USER": "student",
        "LANG": "C.UTF-8",
        "PYTHONPATH": course,
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "COURSE_ARTIFACTS": f"{scratch}/artifacts",
        "IPYTHONDIR": f"{scratch}/ipython",
        "MPLCONFIGDIR": f"{scratch}/matplotlib",
        "MPLBACKEND": "agg",
    }


def settings(limits: Limits, modules: list[str], judged: bool) -> str:
    """The second argument of `inside.py`."""
    sizes = {"memory": limits.memory, "file_size": limits.disk}
    return json.dumps(sizes | {"modules": modules, "judged": judged})


def jailed(
    connection_file: Path,
    course: Path,
    limits: Limits,
    modules: list[str],
    judged: bool = True,
) -> list[str]:
    """The command that starts a kernel in a jail.

    Args:
        connection_file: of transport ipc, its sockets in a folder of their own; the one place
            outside that the jail can write to.
        course: the students' copy of the course.
        limits: what it may use.
        modules: what to import before the first cell.
        judged: as the grader wants it, without outputs and with `judge_request`.
    """
    sockets = str(Path(json.loads(connection_file.read_text())["ip"]).parent)
    command = base(limits)
    command += ["--bind", sockets, sockets, "--ro-bind", str(connection_file), "/connection.json"]
    command += ["--ro-bind", str(course), "/course", "--ro-bind", str(INSIDE), "/inside.py"]
    command += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", HOME]
    for name, value in environment("/course", HOME, "/tmp").items():
        command += ["--setenv", name, value]
    command += [sys.executable, "/inside.py", "/connection.json"]
    return [*command, settings(limits, modules, judged)]


def unjailed(connection_file: Path, limits: Limits, modules: list[str]) -> list[str]:
    """The command that starts a kernel in the open, with limits of memory only."""
    inside = [sys.executable, str(INSIDE), str(connection_file)]
    return [*inside, settings(limits, modules, judged=True)]


def main() -> None:
    """Become a jailed kernel, for nbgrader."""
    connection_file, course = Path(sys.argv[1]), Path(sys.argv[2])
    probe()
    command = jailed(connection_file, course, Limits(), [], judged=False)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
