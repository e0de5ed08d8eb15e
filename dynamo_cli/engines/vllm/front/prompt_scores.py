"""Log probabilities of long prompts become vLLM's objects a few at a time, so that streams go on.

vLLM makes an object for each of them when the first token of an answer comes: with 20 alternatives
for 8,000 tokens this takes two seconds, in which its event loop does nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.outputs import LogprobsTensors

from dynamo_cli.host import vital

PIECE = 256
"""Log probabilities that are converted at once: 3 ms of work. The outputs of a request whose prompt
has more of them are held back."""


@dataclass(slots=True, eq=False)
class _Unconverted:
    """A request whose outputs wait until its log probabilities are converted.

    Attributes:
        name: the id by which AsyncLLM knows it.
        scores: those of the prompt: (tokens, alternatives) each.
        outputs: its outputs so far, in their order.
        row: number of tokens of the prompt that are done.
    """

    name: str
    scores: LogprobsTensors
    outputs: list[EngineCoreOutput]
    row: int = 0


@dataclass(slots=True, eq=False)
class PromptScores:
    """Holds outputs back until the log probabilities of their prompts are converted.

    Requests take turns, so a short prompt does not wait for a long one.

    Args:
        pass_on: is given the outputs of a request, which AsyncLLM is to process.

    Attributes:
        states: AsyncLLM's requests by id; set by the owner of AsyncLLM.
        waiting: the requests whose outputs wait, by the ids by which AsyncLLM knows them.
    """

    pass_on: Callable[[list[EngineCoreOutput]], None]
    states: Mapping[str, RequestState] = field(default_factory=dict)
    waiting: dict[str, _Unconverted] = field(default_factory=dict)
    _turns: deque[_Unconverted] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None

    def holds(self, output: EngineCoreOutput) -> bool:
        """Whether an output has to wait; it is passed on later then."""
        waiting = self.waiting.get(output.request_id)
        if waiting is not None:
            waiting.outputs.append(output)
            return True
        scores = output.new_prompt_logprobs_tensors
        if scores is None or scores.logprobs.numel() <= PIECE:
            return False
        output.new_prompt_logprobs_tensors = None
        waiting = _Unconverted(output.request_id, scores, [output])
        self.waiting[waiting.name] = waiting
        self._turns.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._convert())
            vital.watch(self._task)
        return True

    async def _convert(self) -> None:
        while self._turns:
            waiting = self._turns.popleft()
            state = self.states.get(waiting.name)
            if state is not None and self._convert_some(waiting, state):
                self._turns.append(waiting)
            else:
                del self.waiting[waiting.name]
                self.pass_on(waiting.outputs)
            await asyncio.sleep(0)

    def _convert_some(self, waiting: _Unconverted, state: RequestState) -> bool:
        """Convert the next piece; returns whether there is more."""
        scores = waiting.scores
        rows, width = scores.logprobs.shape
        some = slice(waiting.row, waiting.row + max(1, PIECE // width))
        converter: Any = state.logprobs_processor
        converter._update_prompt_logprobs(
            LogprobsTensors(
                scores.logprob_token_ids[some],
                scores.logprobs[some],
                scores.selected_token_ranks[some],
            )
        )
        waiting.row = some.stop
        return bool(some.stop < rows)
