"""`/health`, `/version` and `/dynamo/*`: the state of the tree as JSON and as a live stream.

Snapshots, decisions, timelines and log lines come in from `watch`, and readings of GPUs and memory
from this host; JSON and server-sent events go out to clients.
Open `pages.py` first, the handlers of these paths.
"""
