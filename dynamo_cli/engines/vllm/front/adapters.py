"""Loads and unloads LoRA adapters in vLLM's registry of models at run time."""

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
    """Load or unload an adapter under the number that the frontend has given to it.

    vLLM's own method numbers adapters in the order in which a processor loads them, so that engines
    would confuse the adapters of two processors.

    Raises:
        DynamoError: the adapter cannot be loaded or unloaded.
    """
    adapter = wanted.adapter
    known = models.lora_requests.get(adapter.name)
    if known is not None and known.lora_int_id != adapter.number:
        raise InvalidRequest(
            f"the adapter {adapter.name!a} is one of --lora-modules, which cannot be changed here."
        )
    if isinstance(wanted, UnloadAdapter):
        models.lora_requests.pop(adapter.name, None)
    elif known is None:
        models.lora_requests[adapter.name] = await _loaded(llm, models, adapter)
    return Response("{}", media_type="application/json")


async def _loaded(llm: AsyncLLM, models: OpenAIServingModels, adapter: Adapter) -> LoRARequest:
    """Have all workers load the adapter, and return it as vLLM's request for it."""
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
