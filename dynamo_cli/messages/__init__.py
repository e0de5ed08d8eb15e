"""The messages that processes exchange, one module for each flow.

Each message is a msgspec struct that one process encodes and another decodes with `ipc.codec`, as
msgpack of a tagged array; nothing in here sends or acts. Token ids travel as raw int32, engine
objects as vLLM's own frames, which only engines/vllm/ reads, and all times are CLOCK_MONOTONIC,
which every process of a host shares and which processes on other nodes convert their own clock to
(`host.clock`). Open `flows.py` first: it lists what each process may receive;
then `request.py`, which follows a request from the frontend to the worker and back.
"""
