"""Links between processes: messages through rings in shared memory.

A process sends messages to a peer by its `ProcessId`; they come out at the peer's handler in order.
The supervisor passes the file descriptors of a link over the control socket of each process.
Open `switchboard.py` first, all the links of one process, then `link.py` and `ring.py`.
`control.py` and `packet.py` are the control sockets.
"""
