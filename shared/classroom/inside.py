"""The kernel that a submission runs in: IPython's own, with one more request, `judge_request`.

Run as a script inside the jail; imports nothing of `shared.classroom`, which is not there.

A student's code lives in the same process as the check of it and can reach nearly everything in
that process. So the absence of an error proves nothing here. Instead, the grader sends the check
with a word that nobody else knows, outside IPython's way of running cells; the check is imported
afresh from the read-only course; the functions it relies on (Python's, PyTorch's, NumPy's, the
course's) are put back as they were before the first cell ran; and only a check that ran to its
end is answered with that word. Patches of `torch.allclose`, of `shared.exercises`, of IPython's
traceback and the like are undone or beside the point. Code written against this very file, which
looks for its frames or objects, could still cheat: the guide says so.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import shutil
import sys
from types import FunctionType, ModuleType

from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp

GUARDED = {
    *("builtins", "math", "cmath", "random", "statistics", "operator", "itertools", "functools"),
    *("collections", "copy", "re", "json", "dis", "importlib", "linecache", "traceback", "types"),
    *("dataclasses", "contextlib", "torch", "numpy", "shared"),
}
LONGEST = 2000  # characters of what a check says


class Quiet(OutStream):
    """Counts what is printed and throws it away: a gigabyte of it fills nothing."""

    printed = 0

    def write(self, string: str) -> int:
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        Quiet.printed += len(string)
        return len(string)

    def __setattr__(self, name: str, value: object) -> None:
        if name != "write":  # IPython would put a `write` here that keeps a copy of everything
            super().__setattr__(name, value)


class Pristine:
    """What stood in the guarded modules before a student's first cell ran."""

    def __init__(self) -> None:
        self.modules = {
            name: module
            for name, module in sys.modules.items()
            if isinstance(module, ModuleType) and name.partition(".")[0] in GUARDED
        }
        self.attributes: list[tuple[object, str, object]] = []
        self.functions: list[tuple[FunctionType, tuple]] = []
        self._seen: set[int] = set()
        for module in self.modules.values():
            self._keep(module)
        self.search = [list(sys.path), list(sys.meta_path), list(sys.path_hooks)]

    def _keep(self, owner: ModuleType | type) -> None:
        if id(owner) in self._seen:
            return
        self._seen.add(id(owner))
        for name, value in list(vars(owner).items()):
            wrapped = isinstance(value, staticmethod | classmethod | property)
            if not (callable(value) or wrapped or isinstance(value, float)):
                continue
            self.attributes.append((owner, name, value))
            if isinstance(value, FunctionType):
                self.functions.append((value, _insides(value)))
            elif isinstance(value, type) and value.__module__.partition(".")[0] in GUARDED:
                self._keep(value)

    def put_back(self) -> list[str]:
        """Undo what was replaced since; the names of it."""
        changed = []
        for name, module in self.modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
                changed.append(name)
        for owner, name, value in self.attributes:
            if vars(owner).get(name) is value:
                continue
            try:
                setattr(owner, name, value)
            except (AttributeError, TypeError):
                continue
            changed.append(f"{owner.__name__}.{name}")
        for function, insides in self.functions:
            if _insides(function) != insides:
                function.__code__, function.__defaults__, function.__kwdefaults__ = insides
                changed.append(f"{function.__module__}.{function.__qualname__}")
        sys.path[:], sys.meta_path[:], sys.path_hooks[:] = self.search
        sys.path_importer_cache.clear()
        sys.settrace(None)
        sys.setprofile(None)
        return changed


def _insides(function: FunctionType) -> tuple:
    return function.__code__, function.__defaults__, function.__kwdefaults__


class JudgedKernel(IPythonKernel):
    """A kernel that also answers `judge_request`."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.pristine = Pristine()
        self.shell_handlers["judge_request"] = self.judge_request

    def judge_request(self, stream, ident, parent) -> None:
        """Run a check on what the notebook has defined; answer with the word that came with it."""
        asked = parent["content"]
        try:
            said = self._judge(asked["source"])
        except KeyboardInterrupt:
            said = {"status": "interrupted", "text": ""}
        said |= {"word": asked["word"], "printed": Quiet.printed}
        self.session.send(stream, "judge_reply", said, parent=parent, ident=ident)

    def _judge(self, source: str) -> dict:
        changed = self.pristine.put_back()
        import torch

        theirs = {n: m for n, m in sys.modules.items() if _is_exercise(n)}
        for name in theirs:
            del sys.modules[name]
        streams = sys.stdout, sys.stderr
        kind, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
        wrong: type[BaseException] = AssertionError
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
            exercises = importlib.import_module("shared.exercises")
            wrong = exercises.Wrong
            names = dict(self.shell.user_ns)
            names |= {name: getattr(exercises, name) for name in exercises.__all__}
            names["__builtins__"] = builtins
            exec(compile(source, "<check>", "exec"), names)
            said = {"status": "right", "text": ""}
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            status = "wrong" if isinstance(error, wrong | AssertionError) else "raised"
            said = {"status": status, "text": _text_of(error, status)}
        finally:
            sys.stdout.close()
            sys.stdout, sys.stderr = streams
            torch.set_default_dtype(kind)
            torch.set_grad_enabled(gradients)
            for name in [n for n in sys.modules if _is_exercise(n)]:
                del sys.modules[name]
            sys.modules.update(theirs)
        return said | {"changed": sorted(set(changed))[:20]}


def _is_exercise(name: str) -> bool:
    return name == "shared.exercises" or name.startswith("shared.exercises.")


def _text_of(error: BaseException, status: str) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(an error that cannot be shown)"
    return (text if status == "wrong" else f"{type(error).__name__}: {text}")[:LONGEST]


def limit(memory: int, file_size: int) -> None:
    """Set what this process and those it starts may use, for good; where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(connection_file: str, settings: str) -> None:
    """Start the kernel; `settings` is JSON: memory, file_size, modules, judged."""
    chosen = json.loads(settings)
    limit(chosen["memory"], chosen["file_size"])
    arguments = ["-f", connection_file, "--quiet", "--HistoryManager.enabled=False"]
    if not chosen["judged"]:  # for nbgrader, which wants the outputs
        IPKernelApp.launch_instance(arguments)
        return
    if os.path.isdir(fonts := f"{os.environ['PYTHONPATH']}/matplotlib"):
        shutil.copytree(fonts, os.environ["MPLCONFIGDIR"], dirs_exist_ok=True)
    for name in chosen["modules"]:
        importlib.import_module(name)
    IPKernelApp.launch_instance(
        arguments, kernel_class=JudgedKernel, outstream_class="__main__.Quiet"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
