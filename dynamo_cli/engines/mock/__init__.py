"""A simulated engine: blocks and batches as in vLLM, no weights, times from a profile.

Requests come in as a worker gives them to vLLM's engine. Tokens come out in vLLM's own encoding,
after the time that the profile says. Open `engine.py` first, which a worker runs. The simulation
itself is in `state.py`; it has no clock, so that replays of traces use it too.
"""
