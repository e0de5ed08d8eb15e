"""The only package that imports vLLM, so that a new release of vLLM changes nothing elsewhere.

vLLM's options, bodies of requests and the messages of `messages/` come in; answers and the outputs
of engine steps go out. Open `front/serving.py` first to see what a processor runs, `core/engine.py`
for a worker. `options/` reads options; `host_cache/` copies KV blocks to the memory of the host and
back.
"""
