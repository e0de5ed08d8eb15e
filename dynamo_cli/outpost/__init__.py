"""The outpost runs the processes of one node of a cluster that is not the head.

Orders of the supervisor come in through the relay: which children to start, link and end, and
messages for them. The children's reports, log lines and exits go out the same way. Open
`process.py` first; `prepare.py` checks what must be on the node before the outpost starts.
"""
