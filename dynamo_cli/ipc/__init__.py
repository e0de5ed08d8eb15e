"""Links between processes: bytes through shared memory, descriptors through control sockets."""
