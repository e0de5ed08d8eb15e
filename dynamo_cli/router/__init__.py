"""Chooses a worker for each request, from what each worker has cached and its load.

Queries of processors, KV events and load reports of workers come in; answers, decisions for the
frontend and statistics go out. Open `state.py` first: it decides; `process.py` is the loop around
it, and `policies/` has the rules.
"""
