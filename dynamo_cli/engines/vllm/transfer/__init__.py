"""KV blocks from a prefill engine to a decode engine of the same host, over shared memory."""
