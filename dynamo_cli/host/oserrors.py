"""Errors of the operating system as sentences that say what to do. Pure."""

from __future__ import annotations

import errno
import os

from dynamo_cli.errors import DynamoError, ResourceError, StartError

_REMEDIES = {
    errno.ENOSPC: "free some space, or let XDG_CACHE_HOME and TMPDIR name folders on another disk",
    errno.EDQUOT: "free some space, or let XDG_CACHE_HOME and TMPDIR name folders on another disk",
    errno.EMFILE: "raise the limit: ulimit -n 65536",
    errno.ENFILE: "the whole machine has too many files open: end some processes",
    errno.ENOMEM: "free some memory, or use fewer workers",
    errno.EAGAIN: "raise the limit on processes: ulimit -u",
    errno.EACCES: "let this user read it, or run as a user who may",
    errno.EPERM: "run as a user who may",
    errno.EROFS: "let XDG_CACHE_HOME and TMPDIR name folders that can be written",
    errno.EIO: "the disk or the network below it fails: see the kernel's log",
    errno.ESTALE: "the network drive below it has gone: mount it again",
    errno.ELOOP: "its symbolic links form a circle",
    errno.ENAMETOOLONG: "use a shorter name",
}

_RESOURCES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
)


def explain(error: OSError) -> str:
    """Explain an error in one sentence that says what to do.

    For example: ``/data/x: Permission denied; let this user read it, or run as a user who may.``

    Only for errors with an errno: libraries also raise OSError with a text alone.
    """
    assert error.errno is not None
    reason = error.strerror or os.strerror(error.errno)
    remedy = _REMEDIES.get(error.errno, "")
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason}{f'; {remedy}' if remedy else ''}."


def named(error: OSError) -> DynamoError:
    """The `DynamoError` for an error with an errno."""
    kind = ResourceError if error.errno in _RESOURCES else StartError
    return kind(explain(error))


def reason(error: OSError) -> str:
    """Return the message of the system in small letters, such as ``no space left on device``.

    asyncio writes more than that into its errors: the address, and what it tried. Errors that the
    system did not make (no number, or OpenSSL's) keep their text.
    """
    text = error.strerror or str(error)
    if error.errno is None or hasattr(error, "library"):
        return text
    return (os.strerror(error.errno) if error.errno > 0 else text).lower()
