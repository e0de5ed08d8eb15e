"""Makes completion scripts for bash, zsh and fish from the declarations of the commands.

Typer commands come in, and the text of a script goes out. Open `words.py` first: it reads what may
be typed where, from the commands and from vLLM's options; `bash.py`, `zsh.py` and `fish.py` write
that as a script.
"""
