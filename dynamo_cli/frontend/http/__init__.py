"""The HTTP side of the frontend: connections, admission, reading bodies, writing streams.

Bytes come in from clients over aiohttp; a `Visit` for each request and its body go to the handlers
of the API, and their answers go back to the clients, with bounds on what is buffered for slow ones.
Open `server.py` first, then `visit.py` and `admission.py`.
"""
