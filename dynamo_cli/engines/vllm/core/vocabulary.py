"""Makes the tables of the vocabulary that grammars need, before requests come.

vLLM makes these tables when the first request with a grammar is added, between two steps of the
engine. For 49,000 tokens that takes 0.2 s, and longer for larger vocabularies. All streams of the
engine would stall in that time.
"""

from __future__ import annotations

import logging
from typing import Any

from vllm.v1.engine.core import EngineCore
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from dynamo_cli.engines.vllm import refusals

BACKENDS = {"auto": XgrammarBackend, "xgrammar": XgrammarBackend, "guidance": GuidanceBackend}
"""Backends by the value of --structured-outputs-config.backend. With "auto", vLLM uses xgrammar
unless the grammar needs another backend."""

logger = logging.getLogger(__name__)


class Vocabulary:
    """The tables of one engine. The first request with a grammar still chooses the backend.

    Args:
        core: the engine.

    Attributes:
        name: vLLM's name of the backend that the tables are for.
    """

    def __init__(self, core: EngineCore) -> None:
        self._manager = core.structured_output_manager
        self._begin = self._manager.grammar_init
        config = core.vllm_config
        chosen = config.structured_outputs_config.backend
        self.name = "xgrammar" if chosen == "auto" else chosen
        self._tables: Any = None
        model = config.model_config
        if model.runner_type == "generate" and not model.skip_tokenizer_init and chosen in BACKENDS:
            self._prepare(BACKENDS[chosen], config)

    def _prepare(self, backend: type[Any], config: Any) -> None:
        size = config.model_config.get_vocab_size()
        try:
            self._tables = backend(config, tokenizer=self._manager.tokenizer, vocab_size=size)
        except Exception as error:  # noqa: BLE001 - requests with a grammar get the same error
            logger.warning(
                "grammars cannot be compiled, so requests with a grammar or schema will fail: %s",
                refusals.reason(error),
            )
            return
        self._manager.grammar_init = self._begin_with_tables

    @property
    def ready(self) -> bool:
        """Whether there are tables."""
        return self._tables is not None

    def _begin_with_tables(self, request: Any) -> None:
        manager = self._manager
        if manager.backend is None and request.structured_output_request is not None:
            wanted = request.sampling_params.structured_outputs._backend
            if wanted == self.name:
                self._choose(self._tables, wanted)
        self._begin(request)

    def unchoose(self) -> None:
        """Let the next request with a grammar choose the backend, as if there had been none."""
        self._choose(None, None)

    def _choose(self, backend: Any, name: str | None) -> None:
        self._manager.backend = backend
        # vLLM 0.33 also keeps the name, and refuses requests that need another backend.
        self._manager.backend_name = name
