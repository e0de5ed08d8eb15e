"""Replays a trace of requests through routing policies and simulated engines. Pure.

A trace, a profile and names of policies come in; a `Result` for each policy and load goes out, and
a verdict on which one to use. Nothing runs in real time. Open `plan.py` first, then `loop.py`.
"""
