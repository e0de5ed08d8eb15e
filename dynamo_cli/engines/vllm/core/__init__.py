"""The worker's half of vLLM: one engine, stepped by the loop of a worker or prefill worker.

Requests come in as vLLM's own frames (`intake.py`). Steps give outputs in vLLM's encoding, KV
events (`events.py`) and counters (`totals.py`). Open `engine.py` first; `chunks.py` limits the
tokens of a step.
"""
