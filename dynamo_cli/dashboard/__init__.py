"""The live view of a tree: a client of ``GET /dynamo/stream``, and nothing more.

events -> model (`BoardState`, pure, makes a `Board` of them) -> widgets that are pure functions of
the board.
"""
