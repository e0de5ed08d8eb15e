"""dynamo-llm: serve large language models on one host, with nothing to install beside it."""

__version__ = "0.1.0"

PROGRAM = "dynamo-llm"
"""Name of the command, of its processes in `ps`, and of its own lines in the log."""
