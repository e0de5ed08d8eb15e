"""A simulated engine: real block accounting and batching, no weights, times from a profile.

Requests come in as a real worker gives them to vLLM's engine, and tokens come out in vLLM's own
encoding, after as much time as the profile says. Open `engine.py` first, which a worker runs. The
simulation itself is in `state.py`; it has no clock, so that replays of traces use it too.
"""
