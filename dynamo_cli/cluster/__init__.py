"""Everything that needs Ray: finds the nodes of a cluster, places outposts there, watches them.

An address comes in, and the nodes (`survey.py`) go out; while serving, `PlaceOutpost` comes in and
`OutpostEnded` goes out (`process.py`, which is the one to open first).
"""
