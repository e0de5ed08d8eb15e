"""Errors of the operating system as sentences."""

from __future__ import annotations

import errno
import socket
import ssl

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


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/c/x"), "no space left on device"),
        (OSError(errno.EROFS, None), "read-only file system"),
        (OSError(errno.ECONNREFUSED, "Connect call failed ('::1', 1)"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (OSError(None, "no space left for a whole line"), "no space left for a whole line"),
        (OSError("Not a file of ours"), "Not a file of ours"),
    ],
)
def test_a_reason_is_what_the_system_says(error: OSError, says: str) -> None:
    assert oserrors.reason(error) == says


def test_a_reason_of_openssl_is_not_taken_for_the_error_of_the_system_with_its_number() -> None:
    answer = ssl.MemoryBIO()
    answer.write(b"HTTP/1.1 400 Bad Request")
    client = ssl.create_default_context().wrap_bio(answer, ssl.MemoryBIO(), server_hostname="a")
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER") as raised:
        client.do_handshake()
    assert raised.value.errno == errno.EPERM
    assert oserrors.reason(raised.value) == raised.value.strerror
