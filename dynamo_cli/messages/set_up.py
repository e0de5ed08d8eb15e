"""What served the requests of a record: the first line of the file that ``--record`` writes."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class SetUp(msgspec.Struct, frozen=True, omit_defaults=True):
    """The processes and sizes of a server.

    Attributes:
        version: release of this program.
        models: names that the server answers to.
        router: policy of the router; empty if there is no router.
        workers, prefill_workers: numbers of them.
        num_blocks, block_size: size of each worker's KV cache in blocks, and tokens per block.
        max_num_seqs: requests that each engine runs at once.
        host_cache_bytes: size of the host cache; 0 if there is none.
    """

    version: str = ""
    models: list[str] = []
    router: str = ""
    workers: Count = 0
    prefill_workers: Count = 0
    num_blocks: Count = 0
    block_size: Count = 0
    max_num_seqs: Count = 0
    host_cache_bytes: Count = 0


class Heading(msgspec.Struct, frozen=True):
    """The line itself: an object with this single field, which no request has."""

    set_up: SetUp
