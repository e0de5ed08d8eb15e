"""Moves KV blocks from a prefill engine to a decode engine of the same host, over shared memory.

What comes in are requests that vLLM's scheduler has finished on the prefill side or is about to
start on the decode side; what goes out are their KV blocks, in an arena or in the decode engine's
cache. Open `connector.py` first: it is what vLLM calls.
"""
