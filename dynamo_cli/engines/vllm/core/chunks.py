"""Computes prompts in smaller parts while answers stream, so that no step takes long.

Every answer waits for the whole step. vLLM fills a step with as many prompt tokens as the engine
can take at once, 8,192 or more on a GPU, and the answers that stream meanwhile stand still for as
long as those take. A device computes a few thousand tokens as efficiently, so a step is limited to
these while an answer streams; without one, steps are as large as vLLM makes them. This is the
"stall-free batching" of Sarathi-Serve (Agrawal et al., OSDI 2024).
"""

from __future__ import annotations

from typing import Any

GENERATE = "generate"
"""vLLM's name for engines whose answers have tokens."""


class Chunks:
    """Limits the prompt tokens of each step of an engine.

    Args:
        scheduler: vLLM's.
        tokens: most prompt tokens of a step while an answer streams; 0: no limit.
    """

    def __init__(self, scheduler: Any, tokens: int) -> None:
        config = scheduler.scheduler_config
        # A scheduler that computes a prompt or an image in one piece needs a step that has room.
        cuts = config.enable_chunked_prefill and not config.disable_chunked_mm_input
        # Where steps are scheduled ahead, embeddings whose step runs would look like streams.
        streams = scheduler.vllm_config.model_config.runner_type == GENERATE
        self._scheduler = scheduler
        self._most = scheduler.max_num_scheduled_tokens
        self._tokens = tokens if cuts and streams else 0
        self._each = 1 + scheduler.num_spec_tokens

    def limit(self) -> None:
        """Set the most tokens of the next step."""
        if self._tokens:
            streams = sum(not one.is_prefill_chunk for one in self._scheduler.running)
            room = streams * self._each + self._tokens if streams else self._most
            self._scheduler.max_num_scheduled_tokens = min(room, self._most)
