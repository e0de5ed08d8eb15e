"""Prefix cache blocks: their hashes, what one engine holds of them, and which worker holds which.

Token ids and an engine's cache events come in; sequence hashes, changes of a worker's set and the
number of leading blocks that each worker holds go out. Open `hashes.py` first, then `holdings.py`
for one engine and `index.py` for all workers. Pure.
"""
