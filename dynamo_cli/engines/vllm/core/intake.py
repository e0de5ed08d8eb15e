"""Takes requests into vLLM's EngineCore: reads their frames, checks them, queues them."""

from __future__ import annotations

from typing import Any

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.serial_utils import MsgpackDecoder

from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.engines.vllm import refusals
from dynamo_cli.engines.vllm.core import hashing, prefill, resume
from dynamo_cli.engines.vllm.options import arguments
from dynamo_cli.errors import InternalError, InvalidRequest
from dynamo_cli.kv import hashes
from dynamo_cli.messages.prefill import PushJob
from dynamo_cli.messages.request import AddRequest


class VllmIntake:
    """Prepares requests and gives them to one engine.

    Args:
        core: the engine.

    Attributes:
        clients: the requests in the engine, by id, each with the index of its processor; in a
            prefill worker, with the index of the decode worker.
    """

    def __init__(self, core: EngineCore) -> None:
        self.clients: dict[str, int] = {}
        self._core = core
        self._decoder = MsgpackDecoder(EngineCoreRequest)
        resume.count_hits_of_new(core)
        self._hasher = hashing.PartHasher(core)
        self._scores_prompts = arguments.scores_prompts(core.vllm_config)

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request without starting it.

        Raises:
            InvalidRequest, InternalError: the engine cannot run it.
        """
        request = self._read(message)
        request.client_index = client
        begin = self._preprocessed(request, message.output_tokens)
        return Prepared(
            client=client,
            message=message,
            family=request.external_req_id or request.request_id,
            prompt_tokens=len(request.prompt_token_ids or ()),
            priority=request.priority,
            suitable=prefill.is_suitable(request),
            begin=begin,
            unfinished=self._hasher.rest(begin[0]),
        )

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        """Queue a prepared request, with the location of its KV blocks if another engine has them.

        Raises:
            InvalidRequest, InternalError: the engine cannot run it; nothing of it is held.
        """
        for _ in prepared.unfinished:
            pass
        request, wave = prepared.begin
        request_id = prepared.message.request_id
        if request_id in self.clients:
            raise InvalidRequest(f"a request {request_id!a} is running already.")
        if kv_transfer_params is not None:
            request.kv_transfer_params = kv_transfer_params
        self._queue(request, wave, prepared.client)

    def add_prefill(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `start`."""
        request = self._read(job)
        prefill.as_prefill(request, job.job_id)
        begun, wave = self._preprocessed(request)
        for _ in self._hasher.rest(begun):
            pass
        self._queue(begun, wave, owner)

    def _queue(self, request: Any, wave: int, client: int) -> None:
        try:
            self._core.add_request(request, wave)
        # Whatever vLLM raises here is about this request, which may be in the queue already.
        except Exception as error:
            self._core.abort_requests([request.request_id])
            raise refusals.of_request(error) from error
        resume.queued(request)
        self.clients[request.request_id] = client

    def _read(self, message: AddRequest | PushJob) -> EngineCoreRequest:
        request = self._decoder.decode(message.frames)
        if message.token_ids:
            request.prompt_token_ids = hashes.unpack_tokens(message.token_ids)
        return request

    def _preprocessed(
        self, request: EngineCoreRequest, outputs: bytes = b""
    ) -> resume.Preprocessed:
        params = request.sampling_params
        if params is not None and params.prompt_logprobs is not None and not self._scores_prompts:
            raise InvalidRequest(
                "log probabilities of the prompt (prompt_logprobs, or echo with logprobs) cannot "
                "be computed on a CPU with --enable-lora; leave them out."
            )
        self._have_adapter(request)
        try:
            if outputs:
                return resume.preprocess(self._core, request, hashes.unpack_tokens(outputs))
            begin: resume.Preprocessed = self._core.preprocess_add_request(request)
        except InternalError:
            raise
        # Whatever vLLM raises here, the engine does not hold the request yet.
        except Exception as error:
            raise refusals.of_request(error) from error
        return begin

    def _have_adapter(self, request: EngineCoreRequest) -> None:
        """Load the request's adapter before a step needs it: a failure in a step ends the engine.

        Raises:
            InvalidRequest: the adapter cannot be loaded.
        """
        adapter = request.lora_request
        if adapter is None or adapter.lora_int_id in self._core.list_loras():
            return
        try:
            self._core.add_lora(adapter)
        # Whatever is wrong with the adapter's files fails only this request.
        except Exception as error:
            raise InvalidRequest(
                f"the adapter {adapter.lora_name!a} cannot be loaded: {refusals.reason(error)}"
            ) from error
