"""Everything that needs Ray: finds the nodes of a cluster, starts an outpost on each, watches them.

Before serving, the address of a cluster comes in and its nodes go out (`survey.py`). While serving,
`PlaceOutpost` comes in, and `OutpostEnded` and `NodesOffered` go out. Open `process.py` first; on
each node, `hand.py` starts the outpost.
"""
