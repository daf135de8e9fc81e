"""Bridges that start quickly: a process that has read in all of `bridge` already, and forks for each one that is wanted.

A test of crashes starts thousands of short processes, and most of what each of them does is to import. Every child is a
process of its own, with its own folder, environment and files, which ends as an interpreter does and may be killed.
`python -m bridge` itself is started by the tests of the books and of the demo. On other systems than Linux, where
forking after such imports is not safe, it always is.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import IO

from tests.support.project import ROOT

FORKS = sys.platform == "linux"
MOST = 1 << 17
"""Bytes of a request: arguments and environment."""


Done = subprocess.CompletedProcess[str]


class Child(subprocess.Popen[bytes]):
    """As Popen, of a process that the zygote forked."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self._child_created = False  # what Popen itself would wait for
        self.args = f"process {pid}"
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = self.stdout = self.stderr = None

    def poll(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._zygote.ended(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended. Raises TimeoutExpired."""
        until = time.monotonic() + (timeout if timeout is not None else 1e9)
        while self.returncode is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = self._zygote.ended(self.pid, min(1.0, max(0.0, until - time.monotonic())))
        return self.returncode


class Zygote:
    """The process that forks, as the tests see it. One for a test process; it ends with it."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])
        theirs.close()
        self._lock = Lock()
        self._ended: dict[int, int] = {}
        self._born: list[int] = []
        atexit.register(self._end)

    def _end(self) -> None:
        self._ours.close()
        self._process.wait()

    def fork(self, module: str, args: Sequence[str], cwd: Path, env: Mapping[str, str], files: Sequence[int]) -> Child:
        """`python -m module args`; `files` are its standard input, output and error."""
        asked = json.dumps({"module": module, "args": [*args], "cwd": str(cwd), "env": dict(env)}).encode()
        with self._lock:
            self._ours.sendmsg([asked], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
            while not self._born:
                self._take()
            return Child(self, self._born.pop())

    def ended(self, pid: int, seconds: float) -> int | None:
        """How it ended, as Popen has it; None: not within so many seconds."""
        with self._lock:
            while pid not in self._ended and select.select([self._ours], [], [], seconds)[0]:
                self._take()
                seconds = 0.0
            return self._ended.get(pid)

    def _take(self) -> None:
        told = self._ours.recv(MOST)
        if not told:
            raise AssertionError("the zygote is gone")
        pid, status = json.loads(told)
        if status is None:
            self._born.append(pid)
        else:
            self._ended[pid] = os.waitstatus_to_exitcode(status)


_zygote: Zygote | None = None


def start(
    module: str, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: IO[bytes], stderr: IO[bytes],
) -> subprocess.Popen[bytes]:  # fmt: skip
    """`python -m module args`."""
    global _zygote
    if not FORKS:
        command = [sys.executable, "-m", module, *args]
        return subprocess.Popen(command, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    _zygote = _zygote or Zygote()
    with open(os.devnull, "rb") as nothing:
        given = nothing if isinstance(stdin, int) else stdin
        return _zygote.fork(module, args, cwd, env, [given.fileno(), stdout.fileno(), stderr.fileno()])


def run(module: str, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float = 120.0) -> Done:
    """The same to its end, with what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = start(module, args, cwd=cwd, env=env, stdout=out, stderr=err)
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise
        for file in (out, err):
            file.seek(0)
        return Done(child.args, code, out.read().decode(), err.read().decode())


# -- the process itself --------------------------------------------------------------------------------------


def _read_in() -> None:
    """Imports everything, so that no child has to."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as the command line does
    import bridge

    for module in pkgutil.walk_packages(bridge.__path__, "bridge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("tests.support.component")
    gc.collect()
    gc.freeze()


def _main(link: socket.socket) -> Callable[[], None]:
    """Forks until nobody asks any more, and exits; in a child, returns what it is to run."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while True:
        ready = select.select([link.fileno(), read], [], [])[0]
        if read in ready:
            os.read(read, 512)
        for pid, status in iter(_reap, (0, 0)):
            link.send(json.dumps([pid, status]).encode())
        if link.fileno() not in ready:
            continue
        asked, files, _, _ = socket.recv_fds(link, MOST, 3)
        if not asked:
            os._exit(0)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (read, write, link.detach()):
                os.close(fd)
            return _child(json.loads(asked), files)
        for fd in files:
            os.close(fd)
        link.send(json.dumps([pid, None]).encode())


def _reap() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _child(asked: dict[str, object], files: list[int]) -> Callable[[], None]:
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(asked["env"])  # type: ignore[call-overload]
    os.chdir(str(asked["cwd"]))
    module, args = str(asked["module"]), asked["args"]
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = [str(ROOT / module.replace(".", "/") / "__main__.py"), *args]  # type: ignore[misc]
    random.seed()
    if module == "bridge":
        from bridge.cli import main

        return main
    return lambda: importlib.import_module(module).main(args)


if __name__ == "__main__":
    _link = socket.socket(fileno=int(sys.argv[1]))
    _read_in()
    _main(_link)()
