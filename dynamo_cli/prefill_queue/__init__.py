"""The prefill queue, a process of its own between decode workers and prefill workers.

Prompts to prefill come in from decode workers as `PushJob`; they go out, leased, to prefill workers
as `RunJob`, and a job that cannot be done goes back to its decode worker as `JobFailed`.
Open `state.py` first, the pure queue; `process.py` is the loop around it.
"""
