"""What happens after a request for the model has ended: counters, access log, record, traces.

The `Visit` of a finished request comes in; lines of JSON go out to the log and to the file of
``--record``, spans to the OpenTelemetry collector, and a line when the server is overloaded.
Open `ended.py` first, which fans a finished request out to all of them.
"""
