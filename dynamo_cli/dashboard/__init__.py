"""The live view of a running tree, in a terminal or a browser.

Server-sent events of ``GET /dynamo/stream`` come in (`client.py`); `model.py` makes a `Board` of
them, and `widgets/` shows the board with the pure functions of `draw/`. Open `model.py` first, then
`app.py`.
"""
