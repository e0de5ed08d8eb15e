"""Units that several packages count in."""

MIB = 1024 * 1024

SECOND_NS = 1_000_000_000
"""Nanoseconds in a second."""
