"""dynamo-llm: serve large language models on one host, with nothing to install beside it."""

__version__ = "0.1.0"
