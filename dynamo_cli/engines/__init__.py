"""The engines that workers run: vLLM's, and a simulated one.

Requests and prefill jobs come in from the process that owns the engine, and tokens, KV blocks and
load go out to it; an engine has neither sockets nor links. Open `seam.py` first, the protocols that
workers know; `start.py` builds an engine. Both engines use `step_budget.py`, which limits the
tokens of a step, and `cache_client.py`, which exchanges messages with the host cache.
"""
