"""vLLM's side of the host cache: blocks go to the host's memory and come back from there.

vLLM's scheduler asks which blocks of a prompt can be loaded and says which blocks were computed;
copies between the engine's cache and the host's memory go out. Open `connector.py` first: it is
what vLLM calls. `manager.py` answers the scheduler, `copies.py` does the copies, `joined.py` loads
blocks within a step, and `leases.py` keeps the blocks of a prefill worker.
"""
