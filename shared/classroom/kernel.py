"""A kernel for one submission, started, watched and talked to from outside.

Not nbclient: that keeps every output in memory, notices a dead kernel late, and reports what a
cell printed, which is what a cheat can print. Here nothing is read but the replies, none larger
than `LARGEST`, and each wait looks whether the process still lives and keeps within its limits.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from shared.classroom.jail import JailError, Limits, environment, jailed, unjailed

LARGEST = 4 << 20  # bytes of one reply
START_SECONDS = 120
GRACE_SECONDS = 4  # for a kernel to stop after an interrupt


class Gone(Exception):
    """The kernel is no more; why, as one would tell the student."""


class TooLong(Exception):
    """It took too long and was interrupted; the kernel can go on."""


@dataclass(frozen=True)
class Cage:
    """All that is needed to start kernels: the students' course, limits, and jailed or not."""

    course: Path
    limits: Limits = Limits()
    modules: tuple[str, ...] = ()
    is_jail: bool = True


class Kernel:
    """One kernel; use it in a `with` statement.

    Raises:
        JailError: it does not start, which is no student's fault.
    """

    def __init__(self, cage: Cage) -> None:
        self.limits = cage.limits
        self.folder = Path(tempfile.mkdtemp(prefix="jail-", dir=cage.course))
        sockets = self.folder / "s"
        sockets.mkdir()
        self.transport = "ipc" if os.name == "posix" else "tcp"
        address = {"transport": "ipc", "ip": str(sockets / "k")} if os.name == "posix" else {}
        file, info = write_connection_file(
            str(self.folder / "connection.json"), key=secrets.token_hex(32).encode(), **address
        )
        if cage.is_jail:
            command = jailed(Path(file), cage.course, cage.limits, list(cage.modules))
            options: dict = {}
        else:
            command = unjailed(Path(file), cage.limits, list(cage.modules))
            home = self.folder / "home"
            home.mkdir()
            names = environment(str(cage.course), str(home), str(self.folder))
            kept = {k: v for k, v in os.environ.items() if k in ("SYSTEMROOT", "TEMP", "TMP")}
            kept["JPY_PARENT_PID"] = str(os.getpid())  # it ends when the grader does
            options = {"env": kept | names, "cwd": home}
        self.log = open(sockets / "log", "wb")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            **options,
        )
        self.killed_because = ""
        self.session = Session(key=info["key"].encode(), signature_scheme=info["signature_scheme"])
        self.context = zmq.Context()
        self.shell = self._connect(info, "shell_port")
        self.control = self._connect(info, "control_port")
        self.stopped = threading.Event()
        self.watcher = threading.Thread(target=self._watch, args=(sockets,), daemon=True)
        self.watcher.start()
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *error) -> None:
        self.stop()

    def _connect(self, info: dict, port: str) -> zmq.Socket:
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST)
        socket.setsockopt(zmq.RCVHWM, 8)
        between = "-" if self.transport == "ipc" else ":"
        socket.connect(f"{self.transport}://{info['ip']}{between}{info[port]}")
        return socket

    def _wait_until_it_answers(self) -> None:
        sent = self.session.send(self.shell, "kernel_info_request", {})
        try:
            if self._reply(sent, START_SECONDS) is not None:
                return
            why = f"no answer in {START_SECONDS} s"
        except Gone as error:
            why = str(error)
        said = (self.folder / "s" / "log").read_text("utf-8", "replace")[-1500:].strip()
        raise JailError(f"the kernel for a submission does not start ({why}):\n{said}")

    # Asking

    def run(self, source: str, seconds: float) -> tuple[str, str]:
        """Run a cell. ("", "") if it went well, else the kind of error and what it says.

        Raises:
            TooLong: it was interrupted.
            Gone: the kernel died of it, or had to be killed.
        """
        asked = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
        said = self._ask("execute_request", asked | {"stop_on_error": False}, seconds)
        if said.get("status") == "ok":
            return "", ""
        return str(said.get("ename", "Error")), str(said.get("evalue", ""))[:500]

    def judge(self, source: str, seconds: float) -> dict:
        """Run a check; see `inside.py`. "right" only if the answer carries this request's word.

        Raises:
            TooLong, Gone: as for `run`.
        """
        word = secrets.token_hex(16)
        said = self._ask("judge_request", {"source": source, "word": word}, seconds)
        if said.get("word") != word or said.get("status") not in ("right", "wrong", "raised"):
            if said.get("status") == "interrupted":
                raise TooLong
            raise Gone("your notebook interfered with the kernel, and no check could be made")
        return said

    def is_full(self) -> bool:
        """Whether what the notebook keeps leaves too little memory for what follows."""
        sizes = [_bytes(member, "status", "VmSize:") for member in family(self.process.pid)]
        return max(sizes) > 0.8 * self.limits.memory

    def _ask(self, kind: str, content: dict, seconds: float) -> dict:
        sent = self.session.send(self.shell, kind, content)
        reply = self._reply(sent, seconds)
        if reply is not None:
            return reply
        for _ in range(2):
            self.session.send(self.control, "interrupt_request", {})
            if self._reply(sent, GRACE_SECONDS / 2) is not None:
                raise TooLong
        self._kill(f"it ran for more than {seconds:.0f} s and could not be interrupted")
        raise Gone(self.killed_because)

    def _reply(self, sent: dict, seconds: float) -> dict | None:
        """The content of the reply to a message, or None if there is none in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            dead = self.process.poll() is not None
            if self.shell.poll(0 if dead else 100):
                try:
                    _, message = self.session.recv(self.shell, mode=0)
                except Exception:  # not from the kernel's session, or not readable
                    continue
                if message and message["parent_header"].get("msg_id") == sent["header"]["msg_id"]:
                    return message["content"]
            elif dead:
                raise Gone(self.killed_because or _ended(self.process.returncode))
        return None

    # Watching

    def _watch(self, sockets: Path) -> None:
        """Kill the kernel when all its processes together use too much."""
        while not self.stopped.wait(0.2):
            members = family(self.process.pid)
            if len(members) > self.limits.processes:
                return self._kill(f"it started more than {self.limits.processes} processes")
            if uses_more_than(self.limits.memory, members):
                size = f"{self.limits.memory / 2**30:.3g} GB"
                return self._kill(f"it and the processes it started used more than {size}")
            if folder_size(sockets) > self.limits.disk / 4:
                return self._kill("it wrote where it must not")

    def _kill(self, because: str) -> None:
        self.killed_because = because
        try:
            if os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        except ProcessLookupError:
            pass
        self.process.wait()

    def stop(self) -> None:
        """End the kernel and forget what it left."""
        self.stopped.set()
        if self.process.poll() is None:
            self._kill(self.killed_because or "stopped")
        self.watcher.join()
        self.log.close()
        for socket in (self.shell, self.control):
            socket.close()
        self.context.term()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ended(status: int) -> str:
    if status == 0:
        return "your code ended the kernel"
    number = -status if status < 0 else status - 128
    try:
        return f"the kernel crashed ({signal.Signals(number).name})"
    except ValueError:
        return f"the kernel crashed (exit status {status})"


def family(pid: int) -> set[int]:
    """A process and all below it; itself alone on a system without /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        grown, found = bool(more), found | more
    return found


def uses_more_than(limit: int, members: set[int]) -> bool:
    """Whether processes together have more than `limit` bytes in memory, shared parts once."""
    # The second question takes longer, and is asked only where the first says yes.
    if sum(_bytes(member, "status", "VmRSS:") for member in members) <= limit:
        return False
    return sum(_bytes(member, "smaps_rollup", "Pss:") for member in members) > limit


def _bytes(pid: int, file: str, name: str) -> int:
    """A figure that the system keeps for a process, or 0 if it cannot be had."""
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 0


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder, a block of 4 KB for each at least; stops at many files."""
    total = count = 0
    for path, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            count += 1
            try:
                total += max(os.lstat(os.path.join(path, name)).st_size, 4096)
            except OSError:
                continue
        if count > 10_000:
            return 1 << 62
    return total
