"""All that is known of the running tree, as one immutable `Snapshot` for people and programs.

Reports of all processes and measurements of requests come in; the snapshot, alarms, and the last
decisions, timelines and log lines go out. Open `schema.py` first, then `state.py`, which makes the
snapshot. Pure: messages and a clock in.
"""
