"""Takes requests into a simulated engine: reads their frames, and refuses what needs a model."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from dynamo_cli.engines.mock import wire
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.errors import InternalError, InvalidRequest
from dynamo_cli.kv import hashes
from dynamo_cli.kv.hashes import ExtraKeys
from dynamo_cli.messages.prefill import PushJob
from dynamo_cli.messages.request import AddRequest

NATURAL_TOKENS = 256
"""Length of an answer when the request does not say how long it may be."""


@dataclass(slots=True)
class Running:
    """A request in the engine.

    Attributes:
        client: index of the processor that it belongs to, or of a prefill's decode worker.
        tokens: its prompt, little-endian int32.
        natural: whether its answer ends by itself (``stop``), because the request has no limit
            below the longest possible answer.
        queued_s: when it came, in seconds on the monotonic clock.
        begun_s: when the first step that computed a part of it began, as `queued_s`; 0 before.
        job: whether it is a prefill for another engine.
    """

    client: int
    tokens: bytes
    natural: bool
    queued_s: float
    begun_s: float = 0.0
    job: bool = False

    def token(self, place: int) -> int:
        """The token id at this position in prompt and answer; the answer repeats the prompt."""
        start = hashes.TOKEN_BYTES * (place % (len(self.tokens) // hashes.TOKEN_BYTES))
        return int.from_bytes(self.tokens[start : start + hashes.TOKEN_BYTES], "little")


class MockIntake:
    """Prepares requests and gives them to one engine.

    Args:
        profile: sizes of the engine.
        sim: the engine.

    Attributes:
        running: the requests in the engine, by id.
    """

    def __init__(self, profile: Profile, sim: SimEngine) -> None:
        self.running: dict[str, Running] = {}
        self._profile = profile
        self._sim = sim
        self._decoder = msgspec.msgpack.Decoder(wire.CoreRequest)

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request without starting it.

        Raises:
            InvalidRequest: the engine cannot run it.
            InternalError: its answer is complete already.
        """
        request = self._decoder.decode(message.frames[0])
        _refuse_what_needs_a_model(request, message.token_ids)
        sampling = request.sampling_params
        assert sampling is not None
        prompt_tokens = len(message.token_ids) // hashes.TOKEN_BYTES
        room = self._profile.max_model_len - prompt_tokens
        natural = sampling.max_tokens is None or sampling.max_tokens >= room
        output_tokens = min(room, NATURAL_TOKENS) if natural else sampling.max_tokens or 1
        sim = self._sim_request(
            message.request_id, message.token_ids, output_tokens, request.cache_salt
        )
        sim.priority = request.priority
        sim.produced = sim.resumed = len(message.output_tokens) // hashes.TOKEN_BYTES
        if sim.resumed >= output_tokens:
            raise InternalError(f"the answer is complete already, with {sim.resumed} tokens.")
        if not self._sim.fits(sim):
            raise InvalidRequest(
                f"{prompt_tokens} prompt tokens and {output_tokens} of the answer do not fit "
                "into the simulated engine."
            )
        return Prepared(
            client=client,
            message=message,
            family=request.external_req_id or request.request_id,
            prompt_tokens=prompt_tokens,
            priority=request.priority,
            suitable=not sampling.skip_reading_prefix_cache,
            begin=(sim, natural),
        )

    def enter(self, prepared: Prepared) -> SimRequest:
        """Add a prepared request to `running`; the caller gives it to the engine."""
        request: SimRequest
        request, natural = prepared.begin
        self.running[request.request_id] = Running(
            prepared.client, prepared.message.token_ids, natural, time.monotonic()
        )
        return request

    def start(self, prepared: Prepared) -> None:
        """Queue a prepared request."""
        self._sim.add(self.enter(prepared))

    def add_prefill(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `prepare`."""
        request = self._decoder.decode(job.frames[0])
        sim = self._sim_request(job.job_id, job.token_ids, 1, request.cache_salt)
        if not self._sim.fits(sim):
            raise InvalidRequest(
                f"{sim.prompt_tokens} prompt tokens do not fit into the simulated engine."
            )
        self.running[job.job_id] = Running(
            owner, job.token_ids, natural=False, queued_s=time.monotonic(), job=True
        )
        self._sim.add(sim)

    def _sim_request(
        self, request_id: str, tokens: bytes, output_tokens: int, salt: str | None
    ) -> SimRequest:
        blocks = len(tokens) // hashes.TOKEN_BYTES // self._profile.block_size
        keys: list[ExtraKeys] = [(salt,), *[None] * (blocks - 1)] if salt and blocks else []
        return SimRequest(
            request_id,
            len(tokens) // hashes.TOKEN_BYTES,
            output_tokens,
            hashes.chain(tokens, self._profile.block_size, keys),
            self._name_block,
        )

    def _name_block(self, request: SimRequest, block: int) -> int:
        """The sequence hash of a block that has output tokens."""
        size, running = self._profile.block_size, self.running[request.request_id]
        tokens = [running.token(place) for place in range(block * size, (block + 1) * size)]
        parent = request.hashes[block - 1] if block else hashes.ROOT
        return hashes.chain(hashes.pack_tokens(tokens), size, (), parent)[0]


def _refuse_what_needs_a_model(request: wire.CoreRequest, tokens: bytes) -> None:
    sampling = request.sampling_params
    if sampling is None or not tokens:
        raise InvalidRequest("the simulated engine only generates text from a prompt of tokens.")
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        raise InvalidRequest("the simulated engine computes no probabilities; leave out logprobs.")
    if sampling.structured_outputs is not None:
        raise InvalidRequest("the simulated engine does not support grammars or schemas.")
    if request.lora_request is not None:
        raise InvalidRequest("the simulated engine does not support LoRA adapters.")
