"""A simulated engine: real block accounting and batching, no weights, time from a profile."""
