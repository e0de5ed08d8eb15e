"""The HTTP process: sockets, keys, limits and streams. It knows nothing of models."""
