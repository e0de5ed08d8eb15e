"""The outpost runs the processes of one other node of a cluster, as the supervisor orders.

Orders of the supervisor come in through the relay: which children to start, link and end, and
messages for them. The children's reports, log lines and exits go out the same way. Open
`process.py` first; `prepare.py` looks for what must be on the node before it starts.
"""
