"""Puts load on a running server and measures its answers, for ``dynamo-llm bench``.

A workload, a pace and the URLs of one or two servers come in; a `Summary` for each server goes out.
Open `bench.py` first, then `drive.py`.
"""
