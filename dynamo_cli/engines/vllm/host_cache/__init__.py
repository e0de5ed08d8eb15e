"""Copies blocks between the KV cache of a vLLM engine and the memory of the host cache.

vLLM's scheduler asks which blocks of a prompt can be loaded, and says which blocks were computed;
copies between the engine's cache and the host's memory go out. Open `connector.py` first: it is the
connector that vLLM calls. `manager.py` answers the scheduler, `copies.py` does the copies,
`joined.py` loads blocks within a step, and `leases.py` keeps the blocks of a prefill worker.
"""
