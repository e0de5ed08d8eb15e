"""Refuses requests whose grammar the engine cannot compile, and says why.

vLLM checks a schema or grammar in its front half, with one of several backends. But an engine
compiles all grammars with the backend of the first request that has a grammar. If this backend
cannot compile the grammar of a later request, vLLM ends that request with an error that has no
reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from vllm.v1.engine import EngineCoreOutputs, FinishReason
from vllm.v1.engine.core import EngineCore

from dynamo_cli.engines.vllm import refusals
from dynamo_cli.engines.vllm.core import resume
from dynamo_cli.errors import DynamoError, InvalidRequest

MOST = 1024
"""Most reasons that are kept; the oldest are dropped first, whose requests may never start."""

REFUSED = "the grammar or schema cannot be compiled: {}"

_ORIGIN = re.compile(r"(\w+: )?\[[\d:]+\] \S+:\d+: ")
"""What xgrammar writes before its reason: the time, and a line number in its own source."""


class Grammars:
    """Keeps the reasons why grammars could not be compiled, until their requests end.

    Args:
        core: the engine; it compiles grammars in threads.
        clients: the requests in the engine, by id, each with its processor; None if no reasons are
            to be kept.
    """

    def __init__(self, core: EngineCore, clients: dict[str, int] | None) -> None:
        manager = core.structured_output_manager
        self._manager = manager
        self._compile = manager._create_grammar
        manager._create_grammar = self._compiled
        self._clients = clients
        self._reasons: dict[str, DynamoError] = {}

    def _compiled(self, request: Any) -> Any:
        try:
            grammar = self._compile(request)
            if request.num_output_tokens:
                resume.advance_grammar(self._manager, request, grammar)
            return grammar
        # Whatever a backend raises is about this grammar; vLLM fails the request for it.
        except Exception as error:
            if self._clients is not None:
                self._keep(request.request_id, error)
            raise

    def _keep(self, request_id: str, error: Exception) -> None:
        """Keep a reason until its request ends, which may be much later: it may wait to start."""
        self._reasons[request_id] = _named(error)
        while len(self._reasons) > MOST:
            self._reasons.pop(next(iter(self._reasons)), None)

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drop the reasons of requests that were aborted."""
        for request_id in request_ids:
            self._reasons.pop(request_id, None)

    def take_refused(self, batch: EngineCoreOutputs) -> list[tuple[int, str, DynamoError]]:
        """Remove the requests whose grammar could not be compiled from the outputs of a step.

        Returns:
            processor, id and error of each. The engine holds nothing of them any more.
        """
        if self._clients is None or not self._reasons:
            return []
        ended = [one.request_id for one in batch.outputs if one.finish_reason == FinishReason.ERROR]
        why = {name: self._reasons.pop(name) for name in ended if name in self._reasons}
        batch.outputs = [one for one in batch.outputs if one.request_id not in why]
        return [(self._clients.pop(name), name, error) for name, error in why.items()]


def _named(error: Exception) -> DynamoError:
    if isinstance(error, DynamoError):
        return error
    return InvalidRequest(REFUSED.format(_ORIGIN.sub("", refusals.reason(error))))
