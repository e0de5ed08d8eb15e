"""Units that several packages count in."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

US_NS = 1_000
"""Nanoseconds of a microsecond."""

MS_NS = 1_000_000
"""Nanoseconds of a millisecond."""

SECOND_NS = 1_000_000_000
"""Nanoseconds of a second."""
