"""What forked processes have imported, for those that are forked later.

An engine imports modules of the compiler and of its model that the zygote has not, which takes
seconds on a GPU. It tells their names when it is ready, and the zygote imports them too, so that
the next engine has them when it is forked.

Some modules do at their import what a process that forks must not do: they use the GPU, start a
thread, or change what the whole process works with. So the modules are first imported in a forked
process that ends afterwards, on the GPU of the engine that told them. The zygote imports only those
that did nothing of this kind there.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dynamo_cli.host import lifeline
from dynamo_cli.host.gpus import all_alike

LARGEST = 1 << 17
"""Bytes of a message: names of thousands of modules."""

TRIALS = 50
"""Most processes that try the modules of one message. Each ends at the first module that must not
be imported, and each later module that imports that one costs one more process."""

TRIAL_S = 60
"""Longest time that the import of one module may take there, seconds."""

DONE, FAILED = "+", "-"
"""What a trial says of a module: it may be imported; it cannot be imported again."""

DEVICES = ("/dev/nvidia", "/dev/nvmap", "/dev/nvhost", "/dev/dxg", "/dev/kfd", "/dev/dri")
"""Beginnings of the paths that a process opens to use a GPU, also a small one or under WSL."""

NEVER = ("nixl",)
"""Beginnings of names that are not told. vLLM sets a variable before it imports NIXL, and warns and
sets nothing where it was imported before."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)

VISIBLE = "CUDA_VISIBLE_DEVICES"

logger = logging.getLogger(__name__)

_told: set[str] = set()
_speaking: socket.socket | None = None


def tell() -> None:
    """Tell what this process has imported since it was forked, or since it told before."""
    if _speaking is None:
        return  # it was not forked
    names = [
        name
        for name, module in list(sys.modules.items())
        if name not in _told and not name.startswith(NEVER) and _has_file(module)
    ]
    if not names:
        return
    try:
        _speaking.send("\n".join((os.environ.get(VISIBLE, ""), *names)).encode())
    except OSError as error:
        logger.debug("the next process like this one starts later than it could: %s", error)
        return
    _told.update(names)


def _has_file(module: object) -> bool:
    # Modules that load others when they are asked for a name are not asked.
    return getattr(getattr(module, "__dict__", {}).get("__spec__"), "has_location", False) is True


class Learning:
    """The side of the process that forks: imports what others tell.

    Args:
        private: file descriptors that processes which try modules must close.
    """

    def __init__(self, private: Sequence[int] = ()) -> None:
        global _speaking  # forked processes inherit it
        self._hearing, _speaking = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hearing.setblocking(False)
        _speaking.setblocking(False)
        self._private = [self._hearing.fileno(), *private]
        self._told: set[str] = set()
        self._devices = ""
        self._to_try: list[str] = []
        self._trial: ImportTrial | None = None
        self._trials = self._learned = 0
        self._to_import: deque[str] = deque()

    def forked(self) -> None:
        """In the forked process: note what it has, and leave this end of the socket."""
        self._hearing.close()
        if self._trial is not None:
            self._trial.leave()
        _told.update(sys.modules)

    @property
    def busy(self) -> bool:
        """Whether `advance` has something to do at once."""
        return bool(self._to_import or (self._to_try and self._trial is None))

    def files(self) -> list[int]:
        """File descriptors that can be read when `advance` has something to do."""
        trial = self._trial.files if self._trial is not None else ()
        return [self._hearing.fileno(), *trial]

    def advance(self, ready: Container[int]) -> None:
        """Do the next piece of work: import one module, or begin or end a trial.

        Args:
            ready: those of `files` that can be read.
        """
        if self._hearing.fileno() in ready:
            self._devices, *told = self._hearing.recv(LARGEST).decode().split("\n")
            self._to_try += [name for name in told if name not in self._told]
            self._told.update(told)
            self._trials = 0
        if self._to_import:
            self._import(self._to_import.popleft())
        elif self._trial is None and self._to_try:
            self._try()
        elif self._trial is not None and self._trial.ended(ready):
            self._learn(self._trial)

    def _try(self) -> None:
        names, self._to_try = self._to_try, []
        self._trials += 1
        if self._trials > TRIALS:
            logger.debug("%d modules are not imported before the next fork", len(names))
            return
        try:
            self._trial = ImportTrial(names, self._devices, self._private)
        except OSError as error:
            logger.warning("the next engine starts later than it could: %s", error)

    def _learn(self, trial: ImportTrial) -> None:
        """Import what may be imported, and then try what comes after what must not be."""
        self._trial = None
        self._to_import.extend(trial.fine)
        if trial.left:
            logger.debug("%s must not be imported before the next fork", trial.left[0])
            self._to_try = trial.left[1:] + self._to_try

    def _import(self, name: str) -> None:
        try:
            importlib.import_module(name)
        # A module may raise anything. This one could be imported twice before; without it, only the
        # next engine starts later.
        except Exception as error:  # noqa: BLE001 - it must not end the zygote
            logger.warning("%s cannot be imported before the next fork: %r", name, error)
        self._learned += 1
        if not self._to_import:
            gc.freeze()  # they are not collected, like what was imported before
            logger.debug("%d modules are imported before the next fork", self._learned)


class ImportTrial:
    """A process that imports modules until one does what a process that forks must not do.

    Args:
        names: the modules, in the order in which they are imported.
        devices: the GPUs that it may use, as in ``CUDA_VISIBLE_DEVICES``.
        private: file descriptors that it closes.

    Attributes:
        files: can be read when it has said something, and when it has ended.

    Raises:
        OSError: it cannot be forked.
    """

    def __init__(self, names: Sequence[str], devices: str, private: Sequence[int]) -> None:
        self._names = names
        self._said = b""
        self._reading, writing = os.pipe()
        parent = os.getpid()
        self._pid = 0
        try:
            if (pid := os.fork()) == 0:
                _import_all(names, devices, writing, [self._reading, *private], parent)
            self._pid = pid
            self._end = os.pidfd_open(pid)
        except OSError:
            os.close(self._reading)
            self._reap()
            raise
        finally:
            os.close(writing)
        os.set_blocking(self._reading, False)
        self.files: tuple[int, ...] = (self._reading, self._end)

    def ended(self, ready: Container[int]) -> bool:
        """Read what it has said; return whether it has ended, so that there will be no more.

        Args:
            ready: those of `files` that can be read.
        """
        with suppress(BlockingIOError):
            while said := os.read(self._reading, LARGEST):
                self._said += said
            self.files = (self._end,)  # it says no more
        if self._end not in ready:
            return False
        self.leave()
        self._reap()
        return True

    def _reap(self) -> None:
        if self._pid:
            with suppress(ProcessLookupError):  # it is gone, but not what a module has started
                os.killpg(self._pid, signal.SIGKILL)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def leave(self) -> None:
        """Close its files."""
        os.close(self._reading)
        os.close(self._end)

    @property
    def fine(self) -> list[str]:
        """The modules that may be imported."""
        said = self._said.decode().removesuffix("\n")
        return [line[1:] for line in said.split("\n") if line.startswith(DONE)]

    @property
    def left(self) -> list[str]:
        """The module that must not be imported, and those behind it, which were not tried."""
        return list(self._names[self._said.count(b"\n") :])


def _import_all(
    names: Sequence[str], devices: str, writing: int, private: Sequence[int], parent: int
) -> NoReturn:
    """Import the modules, and say of each that it was fine. Runs in the process of the trial, which
    ends here whatever happens."""
    try:
        lifeline.die_with(parent)
        os.setpgid(0, 0)
        os.nice(19)  # the engines have work to do
        for file in private:
            os.close(file)
        silence = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(silence, standard)
        os.environ[VISIBLE] = devices
        wanted = all_alike()  # modules may adapt themselves to the model of GPU
        before = _traces()
        for name in names:
            signal.alarm(TRIAL_S)
            result = FAILED
            if wanted:
                with suppress(Exception):  # a module may raise anything
                    importlib.import_module(name)
                    result = DONE
            if _traces() != before:
                break
            os.write(writing, f"{result}{name}\n".encode())
    finally:
        os._exit(0)


def _traces() -> tuple[Any, ...]:
    """What modules must not change: open devices, threads, children, variables, signals, what log
    records need to be written, and of PyTorch whether CUDA is in use and the default type."""
    own, opened = Path("/proc/self"), []
    for file in (own / "fd").iterdir():
        with suppress(OSError):  # the one that lists them is closed by now
            opened.append(str(file.readlink()))
    children = ""
    with suppress(OSError):  # some kernels do not tell
        children = (own / "task" / str(os.getpid()) / "children").read_text()
    torch = sys.modules.get("torch")
    return (
        sorted(path for path in opened if path.startswith(DEVICES)),
        len(list((own / "task").iterdir())),
        children,
        dict(os.environ),
        [signal.getsignal(number) for number in SIGNALS],
        (logging.raiseExceptions, logging.root.level, logging.root.manager.disable),
        torch is not None and (torch.cuda.is_initialized(), torch.get_default_dtype()),
    )
