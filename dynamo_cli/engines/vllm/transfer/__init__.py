"""Moves KV blocks from a prefill engine to a decode engine of the same host, over shared memory.

Requests come in that vLLM's scheduler has finished on the prefill side or is about to start on the
decode side; their KV blocks go out, to an arena or to the decode engine's cache. Open
`connector.py` first: it is what vLLM calls.
"""
