"""The HTTP process, the only one that clients talk to; it knows nothing of models or tokens.

HTTP requests come in from clients, answers from processors and reports from every process; raw
bodies go out to processors, admin commands to engines and the supervisor, and answers to clients.
Open `api.py` first, the table of routes, then `model_requests.py` and `process.py`.
"""
