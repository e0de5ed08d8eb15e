"""What this machine and its operating system offer to our processes.

Device lists, file names and process ids come in. GPU readings, cache folders, process titles and
plain error sentences go out. Open `optional.py` first: it shows how refusals of the system are
treated. Nearly all other modules can be read alone.
"""
