"""Boards as text: pure functions that widgets and plain prints share."""
