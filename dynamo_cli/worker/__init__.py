"""One engine per process: a worker that answers requests, or a prefill worker, which only prefills.

Requests come in from processors, prefill jobs from the prefill queue and orders from the frontend;
tokens, KV blocks, KV events and load go out to processors, decode workers, router and frontend.
Open `process.py` first, the loop that both kinds of worker share, then `decode.py` or `prefill.py`.
"""
