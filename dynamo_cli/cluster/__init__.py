"""Everything that needs Ray: finds the nodes of a cluster, places outposts there, watches them.

Before serving, an address comes in and the nodes go out (`survey.py`). While serving,
`PlaceOutpost` comes in, and `OutpostEnded` and `NodesOffered` go out. Open `process.py` first; on
each node, `hand.py` starts the outpost.
"""
