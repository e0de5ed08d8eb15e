"""Pure functions from a `Board` to text, for widgets and for plain output.

A board, or a part of it, and a width come in; Rich text goes out. Open `overview.py` first.
"""
