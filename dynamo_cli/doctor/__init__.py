"""``dynamo-llm doctor``: checks whether this machine can serve, and says what to do if not.

The typed options of serving come in; findings, each with its remedy, go out. Open `rules.py` first:
`gather.py` collects `Facts` (`facts.py`), and the rules turn facts into findings, with `needs.py`
for what a model takes. All but `gather.py` are pure.
"""
