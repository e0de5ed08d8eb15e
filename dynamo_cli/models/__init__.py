"""Finds the files of a model: of a built-in one (``demo``, ``tiny``), a folder, or a hub's model.

The value of ``--model`` comes in, and a folder, or a name that vLLM resolves, goes out. Open
`catalog.py` first: it finds or fetches a model; `soundness.py` checks a folder, and the other
modules make the two built-in models.
"""
