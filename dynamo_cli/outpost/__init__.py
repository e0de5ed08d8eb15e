"""The outpost: the supervisor's hand on another node of a cluster.

Messages of the supervisor come in through the relay: which children to start, link, tell and end.
Their reports, log lines and exits go out the same way. Open `process.py` first.
"""
