"""vLLM's engine options: checks them without vLLM, and makes vLLM's configuration from them.

Words of the command line come in and are checked without vLLM (`declared.py`, `values.py`,
`hints.py`), by files that `generate.py` has made from each release of vLLM. In processes with vLLM,
`environment.py` sets the variables that vLLM reads, and then `arguments.py` makes vLLM's own
configuration. Open `declared.py` first.
"""
