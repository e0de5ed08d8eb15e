"""Widgets: each shows a board, and nothing of its own."""
