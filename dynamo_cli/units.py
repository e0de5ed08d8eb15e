"""Units that several packages count in."""

MIB = 1024 * 1024
