"""Makes the queries with which the router is asked for a worker."""

from __future__ import annotations

from collections.abc import Callable

from vllm.v1.engine import EngineCoreRequest

from dynamo_cli.engines.vllm.core.events import sequence_hashes
from dynamo_cli.engines.vllm.front.live import LiveRequest, family_of
from dynamo_cli.engines.vllm.front.trace import PromptTrace, RequestTrace
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import MoveReason, Prompt
from dynamo_cli.messages.routing import RouteQuery


class Queries:
    """Makes the queries of one model.

    Args:
        kv_routing: whether the router needs the block hashes of each prompt.
        record: whether requests are recorded, with the block hashes of their prompts.
        block_size: returns the number of tokens per block, once an engine is up.
    """

    def __init__(self, *, kv_routing: bool, record: bool, block_size: Callable[[], int]) -> None:
        self._kv_routing = kv_routing
        self._record = record
        self._block_size = block_size

    def of_new(self, trace: RequestTrace, request: EngineCoreRequest, tokens: bytes) -> RouteQuery:
        """Return the query for a request that has had no worker in this process.

        If requests are recorded, the prompt is noted in the trace.
        """
        blocks = self._blocks(request, tokens)
        prompt_tokens, session = len(tokens) // hashes.TOKEN_BYTES, request.session_id or ""
        if self._record:
            size = self._block_size()
            prompt = Prompt(prompt_tokens, 0, size, blocks, session, request.priority)
            trace.prompts[family_of(request)] = PromptTrace(prompt)
        replay = trace.replay
        return RouteQuery(
            request_id=request.request_id,
            api_id=trace.api_id,
            prompt_tokens=prompt_tokens,
            hashes=blocks if self._routable(request) else b"",
            session=session,
            priority=request.priority,
            moved=MoveReason.DIED if replay is not None else "",
            output_tokens=len(replay.output_of(request.request_id)) if replay is not None else 0,
        )

    def of_moved(self, live: LiveRequest) -> RouteQuery:
        """Return the query for a request that has left its worker."""
        request = live.request
        return RouteQuery(
            request_id=live.wire_id,
            api_id=live.trace.api_id,
            prompt_tokens=len(live.tokens) // hashes.TOKEN_BYTES,
            hashes=self._blocks(request, live.tokens) if self._routable(request) else b"",
            session=request.session_id or "",
            priority=live.priority,
        )

    def _routable(self, request: EngineCoreRequest) -> bool:
        return self._kv_routing and not request.params.skip_reading_prefix_cache

    def _blocks(self, request: EngineCoreRequest, tokens: bytes) -> bytes:
        """Return the packed hashes of the prompt's blocks; nothing if nobody needs them."""
        if not self._routable(request) and not self._record:
            return b""
        return hashes.pack(sequence_hashes(request, tokens, self._block_size()))
