"""What people measure with: load on a server, replays of traces, profiles of engines.

Traces, URLs of servers and profiles of engines come in; tables, verdicts and pictures go out.
Open `report.py` first: load and replay describe their results with it.
"""
