"""Everything that imports vLLM: a new release of it touches no other folder.

`front/` is the processor's half (a request's body becomes tokens, tokens become an answer), `core/`
the worker's half (tokens in, tokens out), `options/` checks what is passed on to vLLM, and
`transfer/` moves KV blocks between engines. Open `core/engine.py` or `front/serving.py` first.
"""
