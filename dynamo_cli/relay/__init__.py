"""A relay carries the links between the head and one node over one encrypted connection.

Links come in from the supervisor or the outpost, which is the parent; their messages go out to the
relay at the other end, and come in from there. Processes at both ends see ordinary links. Open
`process.py` first, then `session.py` and `port.py`.
"""
