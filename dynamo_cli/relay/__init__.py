"""A relay carries the links between the head and one node over one encrypted connection.

Its parent is the supervisor at the head, and the outpost on a node. Links come in from the parent;
their messages go out to the relay at the other end, and come in from there. The processes at both
ends see ordinary links. Open `process.py` first, then `session.py` and `port.py`.
"""
