"""Errors of the operating system as sentences."""

from __future__ import annotations

import errno

import pytest

from dynamo_cli.errors import ResourceError, StartError
from dynamo_cli.host import oserrors


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/c/x"),
            *(ResourceError, "/c/x: No space left on device; free some"),
        ),
        (OSError(errno.EMFILE, "Too many open files"), ResourceError, "files; raise the limit: ul"),
        (OSError(errno.ENOMEM, None), ResourceError, "Cannot allocate memory; free some"),
        (OSError(errno.EROFS, "Read-only file system", "/r"), StartError, "/r: Read-only"),
        (
            OSError(errno.EACCES, "Permission denied", "/m/config.json"),
            *(StartError, "/m/config.json: Permission denied; let this user read it"),
        ),
        (OSError(errno.ENOTTY, "not a typewriter"), StartError, "not a typewriter."),
    ],
)
def test_each_has_its_remedy(error: OSError, kind: type[StartError], says: str) -> None:
    found = oserrors.named(error)
    assert type(found) is kind
    assert says in found.message
    assert found.exit_code == 1
