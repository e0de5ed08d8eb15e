"""What ``dynamo-llm doctor`` looks at.

gather.py   looks: at this machine, at vLLM in a process of its own, at the model's files
facts.py    what it saw
needs.py    facts -> what a model takes            (pure)
rules.py    facts -> findings, with their remedies (pure)
"""
