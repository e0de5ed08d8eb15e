"""What a routing policy would do to a trace of requests: no processes, no sleeping. Pure."""
