"""The only folder that imports vllm: a new release of it touches nothing else."""
