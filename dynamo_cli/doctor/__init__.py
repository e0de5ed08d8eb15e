"""``dynamo-llm doctor``: checks whether this machine can serve, and says what to do if not.

The typed options of serving come in; findings, each with its remedy, go out. Open `rules.py` first:
`gather.py` collects `Facts` (`facts.py`), and the rules turn them into findings (`finding.py`),
with `model_rules.py` and `needs.py` for the model. `cluster.py` judges the nodes of ``--ray``. All
but `gather.py` are pure.
"""
