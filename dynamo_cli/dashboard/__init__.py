"""The live view of a tree: a client of ``GET /dynamo/stream``, and nothing more.

events -> model (a pure fold into a `Board`) -> widgets that are pure functions of the board.
"""
