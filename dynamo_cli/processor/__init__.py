"""The processor: vLLM's front half between one frontend and all workers.

In come clients' requests from the frontend, outputs from the workers and answers from the router.
Out go engine requests to workers, queries to the router and finished or streamed answers to the
frontend. Open `process.py` first; `dispatch.py` beside it says which worker gets a request.
"""
