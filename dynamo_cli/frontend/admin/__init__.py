"""Commands that change a running server: adapters, sleep, prefix caches, workers, prefill bounds.

Commands come in from `api.py` as a query and a body; messages go out to engines, processors and
the supervisor, and JSON goes back when all of them have answered.
Open `paths.py` first, the table of paths, which need ``--enable-admin``.
"""
