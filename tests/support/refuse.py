"""A command in a sandbox that refuses some calls, as gVisor and hardened containers do.

``python -m tests.support.refuse ERRNO NAME ... -- COMMAND ...``: each call of `CALLS` named is
refused with this error by a seccomp filter, in the command and all that it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER_AT, FIRST_ARGUMENT_AT, ARGUMENT_BYTES = 0, 16, 8


class Call(NamedTuple):
    """A system call: its numbers, and the value of an argument when only that is refused."""

    x86_64: int
    aarch64: int
    argument: int = -1
    value: int = 0


CALLS = {
    "sched_setscheduler": Call(144, 119),
    "sched_setaffinity": Call(203, 122),
    "sched_getaffinity": Call(204, 123),
    "setpriority": Call(141, 140),
    "madvise": Call(28, 233),
    "mlock": Call(149, 228),
    "mbind": Call(237, 235),
    "set_mempolicy": Call(238, 237),
    "get_mempolicy": Call(239, 236),
    "membarrier": Call(324, 283),
    "F_ADD_SEALS": Call(72, 25, 1, 1033),
    "PR_SET_PDEATHSIG": Call(157, 167, 0, 1),
    "PR_SET_CHILD_SUBREAPER": Call(157, 167, 0, 36),
    "PR_SET_NAME": Call(157, 167, 0, 15),
    "PR_SET_MM": Call(157, 167, 0, 35),
    "PR_SET_THP_DISABLE": Call(157, 167, 0, 41),
    "PR_SET_VMA": Call(157, 167, 0, 0x53564D41),
}


def instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def program(names: list[str], code: int) -> bytes:
    """The filter: each call is compared, and its argument if that counts."""
    found = b""
    for name in names:
        call = CALLS[name]
        number = call.aarch64 if platform.machine() == "aarch64" else call.x86_64
        found += instruction(LOAD, 0, 0, NUMBER_AT)
        found += instruction(EQUAL, 0, 1 if call.argument < 0 else 3, number)
        if call.argument >= 0:
            place = FIRST_ARGUMENT_AT + ARGUMENT_BYTES * call.argument
            found += instruction(LOAD, 0, 0, place)
            found += instruction(EQUAL, 0, 1, call.value)
        found += instruction(RETURN, 0, 0, REFUSE | code)
    return found + instruction(RETURN, 0, 0, ALLOW)


def refuse(names: list[str], code: int) -> None:
    """From now on, in this process and what it starts."""
    found = program(names, code)
    memory = ctypes.create_string_buffer(found)
    pointer = struct.pack("=HxxxxxxQ", len(found) // 8, ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, pointer, 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "no seccomp filter here")


if __name__ == "__main__":
    ours, command = sys.argv[1:], []
    border = ours.index("--")
    ours, command = ours[:border], ours[border + 1 :]
    refuse(ours[1:], getattr(errno, ours[0]))
    os.execvp(command[0], command)
