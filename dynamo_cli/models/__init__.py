"""Where a model's files are: the embedded demo, a tiny random one, or whatever the user names."""
