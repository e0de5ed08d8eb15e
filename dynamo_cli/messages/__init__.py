"""Every struct that crosses a process, in the order in which a request meets them.

On the wire a message is msgpack of a tagged array (`ipc.codec`). Strings are short names, bytes
travel as they are, engine objects are frames that only engines/vllm can read. All times are
CLOCK_MONOTONIC, which every process of a host shares.
"""
