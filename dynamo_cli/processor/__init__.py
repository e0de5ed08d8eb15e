"""The processor: vLLM's front half between one frontend and all workers.

Clients' requests come in from the frontend, outputs from the workers and answers from the router.
Engine requests go out to workers, queries to the router, and whole or streamed answers to the
frontend. Open `process.py` first; `dispatch.py` beside it chooses the worker for a request.
"""
