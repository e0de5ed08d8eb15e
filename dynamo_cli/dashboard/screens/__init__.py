"""Screens that cover the tabs until they are closed: details, help, a question.

A text or a question comes in; the answer goes out, if there is one. Open `detail.py` first.
"""
