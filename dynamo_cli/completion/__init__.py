"""Completion scripts for bash, zsh and fish, written from the declarations of the commands.

words.py    what may stand where, read from Typer and from vLLM's options
bash.py, zsh.py, fish.py    the same as a script for that shell
"""
