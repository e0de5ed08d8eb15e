"""One truth for people and machines: measurements folded into one immutable `Snapshot`."""
