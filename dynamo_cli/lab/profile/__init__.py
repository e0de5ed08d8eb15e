"""Makes the profile of a simulated engine from measurements of a real one.

Measured runs come in; the times of a `Profile` go out, with their errors. Open `fit.py` first.
"""
