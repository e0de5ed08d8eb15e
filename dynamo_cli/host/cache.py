"""Cache folders of the tool and of the libraries that it uses."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dynamo_cli import PROGRAM
from dynamo_cli.errors import ResourceError

SHARED_MEMORY = "/dev/shm"
HUB = "huggingface"
MODELS = "models"
PRIVATE = f"{PROGRAM}-caches-"
"""Prefix of the names of private cache folders."""


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/dynamo-llm``; the default of the variable is ``~/.cache``."""
    return next(_bases(), Path("~", ".cache")) / PROGRAM


@contextmanager
def usable() -> Iterator[str]:
    """While this lasts, caches can be written, by this process and by all that it starts.

    They are in ``$XDG_CACHE_HOME``, in ``~/.cache``, or else in a private folder that is removed at
    the end. Libraries learn the folder from their environment variables; those that the user has
    set stay as they are.

    Yields:
        a warning that says why the usual folder cannot be used and which one is; empty when the
        usual one is used.

    Raises:
        ResourceError: no folder can be written at all.
    """
    before = dict(os.environ)
    try:
        with ExitStack() as stack:
            _name_user()
            usual = next(_bases(), None)
            base = next(filter(_writable, _bases()), None) or _private(stack)
            if base != usual:
                _move(base)
            _keep_out_of_home(base)
            yield _told(before, base) if base != usual else ""
    finally:
        os.environ.clear()
        os.environ.update(before)


def _bases() -> Iterator[Path]:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named.startswith("/"):  # the XDG specification says to ignore others
        yield Path(named)
    if home := _home():
        yield home / ".cache"


def _home() -> Path | None:
    """The home directory; None when there is none, or it is unknown."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if _is_folder(home) else None


def _is_folder(path: Path) -> bool:
    """Whether it is a directory; False also where this user may not look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _writable(folder: Path) -> bool:
    """Whether files can be written there. Trying it is the only test that detects a full disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError:
        return False
    return True


def _private(stack: ExitStack) -> Path:
    for folder in abandoned():
        shutil.rmtree(folder, ignore_errors=True)
    for place in (None, SHARED_MEMORY):
        try:
            folder, lock = _locked_folder(place)
        except OSError:
            continue
        stack.callback(os.close, lock)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if place is not None:  # nor is there a folder for temporary files, which libraries need too
            os.environ["TMPDIR"] = str(folder)
        return folder
    raise ResourceError(
        "no folder can be written, not even a temporary one: set XDG_CACHE_HOME to one that can."
    )


def _locked_folder(place: str | None) -> tuple[Path, int]:
    """Make a private folder, and lock it to show that its owner lives.

    Returns:
        the folder, and the descriptor that holds the lock.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PRIVATE, dir=place))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process took it for abandoned before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def abandoned() -> Iterator[Path]:
    """Private folders of this user whose owner was killed. Each is locked while it is yielded."""
    places = [SHARED_MEMORY]
    with suppress(FileNotFoundError):  # no folder for temporary files
        places.append(tempfile.gettempdir())
    for place in map(Path, dict.fromkeys(places)):
        for folder in sorted(place.glob(f"{PRIVATE}*")):
            with (
                suppress(OSError),
                ExitStack() as stack,
            ):  # it is gone, belongs to another user, or is in use
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                stack.callback(os.close, lock)
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield folder


def _move(base: Path) -> None:
    """Put caches below `base`, and go on using what can be read in the usual folder."""
    former = cache_root() / MODELS
    hub = Path(os.environ.get("XDG_CACHE_HOME") or former.parents[1]) / HUB
    os.environ["XDG_CACHE_HOME"] = str(base)
    if _is_folder(hub):
        os.environ.setdefault("HF_HOME", str(hub))
    models = base / PROGRAM / MODELS
    models.mkdir(parents=True, exist_ok=True)
    for folder in _folders(former):
        if not (models / folder.name).exists():
            (models / folder.name).symlink_to(folder)


def _folders(parent: Path) -> list[Path]:
    """Folders of finished models: those of unfinished ones have a suffix."""
    try:
        return [entry for entry in parent.iterdir() if entry.is_dir() and not entry.suffix]
    except OSError:
        return []


def _keep_out_of_home(base: Path) -> None:
    """Give libraries that ignore the XDG variables a folder other than an unusable home."""
    home = _home()
    if home is not None and os.access(home, os.W_OK | os.X_OK):
        return
    if home is None:
        os.environ["HOME"] = str(base)
    os.environ.setdefault("XDG_CONFIG_HOME", str(base / "config"))
    os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", str(base))


def _name_user() -> None:
    """Name the user if the uid has no name, as in containers: PyTorch names folders by it."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):
            os.environ["USER"] = f"uid{os.getuid()}"


def _told(before: dict[str, str], base: Path) -> str:
    named = [
        f"{name}={before[name]}" if before.get(name) else f"{name} (not set)"
        for name in ("XDG_CACHE_HOME", "HOME")
    ]
    return (
        f"caches are in {base}: the usual place cannot be written ({', '.join(named)}). "
        "Set XDG_CACHE_HOME to a folder that can be, so that they stay."
    )
