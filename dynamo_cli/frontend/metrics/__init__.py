"""`/metrics`: counters and the snapshot in the text format of Prometheus.

The frontend's own counters and the snapshot of the tree come in; metric families go out, made anew
for each scrape.
Open `exposition.py` first; the other modules name the metrics of one subject each.
"""
