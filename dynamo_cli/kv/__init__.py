"""Prefix cache blocks: their hashes, what a worker holds of them, and who holds which. Pure."""
