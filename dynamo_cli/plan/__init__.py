"""Turns typed options and the resources of this machine into a plan of what to run.

`Typed` (`typed.py`) and `Machine` (`machine.py`) come in; a `ServeConfig`, or an error that names
the option, goes out. Open `resolve.py` first; `preflight.py` checks what needs files.
"""
