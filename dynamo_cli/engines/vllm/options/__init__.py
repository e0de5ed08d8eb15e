"""vLLM's engine options: which there are, what they may be, and vLLM's configuration made of them.

Words of the command line come in and are checked without vLLM (`declared.py`, `values.py`,
`hints.py`), with files that `generate.py` has made of each release of vLLM. In processes with vLLM
they become its own configuration (`arguments.py`), after the environment is set that vLLM reads
(`environment.py`). Open `declared.py` first.
"""
