"""The host cache: a process that knows which KV block is where in the memory of the host.

Engines open it (`OpenCache`), ask for blocks (`FindBlocks`) and report what they have written
(`BlocksWritten`). It answers where blocks are (`BlocksFound`) and says to which slots an engine may
write (`SlotsLent`). It tells the router which blocks it holds (`KvEvents`). The engines themselves
copy the blocks.
Open `state.py` first, the pure state; `blocks.py` has the order of eviction, and `process.py` is
the loop around both. With a tier on disk, `disk.py` decides what is written and read,
`disk_file.py` has the threads that do it, and `disk_tier.py` joins the two.
"""
