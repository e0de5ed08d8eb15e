"""Reads traces of requests, as other systems and ``--record`` write them.

A file, a pipe or standard input comes in; a `Trace` goes out, with the time, the lengths and the
block hashes of each request. Open `reading.py` first.
"""
