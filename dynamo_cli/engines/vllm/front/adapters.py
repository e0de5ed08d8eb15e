"""LoRA adapters in vLLM's registry of models, loaded and unloaded at run time."""

from __future__ import annotations

from starlette.responses import Response
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.exceptions import LoRAAdapterNotFoundError
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from dynamo_cli.config import Adapter
from dynamo_cli.errors import Conflict, InternalError, InvalidRequest, NotFound
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter


async def change(
    llm: AsyncLLM, models: OpenAIServingModels, wanted: LoadAdapter | UnloadAdapter
) -> Response:
    """Load or unload what the frontend says, under the number that it has chosen.

    vLLM's own method would number adapters in the order in which this processor hears of them,
    and engines would take one processor's adapter for another's.

    Raises:
        DynamoError: it cannot be loaded.
    """
    adapter = wanted.adapter
    known = models.lora_requests.get(adapter.name)
    if known is not None and known.lora_int_id != adapter.number:
        raise InvalidRequest(f"the adapter {adapter.name!a} is one of --lora-modules.")
    if isinstance(wanted, UnloadAdapter):
        models.lora_requests.pop(adapter.name, None)
    elif known is None:
        models.lora_requests[adapter.name] = await _loaded(llm, models, adapter)
    return Response("{}", media_type="application/json")


async def _loaded(llm: AsyncLLM, models: OpenAIServingModels, adapter: Adapter) -> LoRARequest:
    """The adapter, once all workers have it."""
    if llm.vllm_config.lora_config is None:
        raise Conflict("the engines take no adapters; start with --enable-lora.")
    if models.is_base_model(adapter.name):
        raise InvalidRequest(f"{adapter.name!a} is a name of the model.", param="lora_name")
    request = LoRARequest(
        lora_name=adapter.name,
        lora_int_id=adapter.number,
        lora_path=adapter.path,
        is_3d_lora_weight=adapter.is_3d,
    )
    try:
        await llm.add_lora(request)
    except InternalError as error:
        if str(LoRAAdapterNotFoundError(adapter.name, adapter.path)) in error.message:
            raise NotFound(f"there is no adapter at {adapter.path!a}.") from error
        raise InvalidRequest(f"{adapter.path!a} cannot be loaded: {error.message}.") from error
    return request
