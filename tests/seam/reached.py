"""What our code reaches through vLLM's objects, and so cannot be read from its imports.

By class or module: names of attributes, and calls with the parameters that we pass. A value that is
passed by position is an underscore; a parameter with a name has that name.
"""

from __future__ import annotations

CORE, FRONT = "vllm.v1.engine", "vllm.entrypoints"

REACHED: dict[str, tuple[str, ...]] = {
    # -- the engine, in workers ----------------------------------------------------------------
    f"{CORE}.core.EngineCore": (
        *("scheduler", "structured_output_manager", "model_executor", "batch_queue"),
        *("vllm_config", "step_fn", "post_step(_)", "shutdown()", "is_sleeping()"),
        *("preprocess_add_request(_)", "add_request(_, _)", "abort_requests(_)"),
        *("get_supported_tasks()", "get_kv_cache_group_metadata()"),
        *("list_loras()", "add_lora(_)", "reset_mm_cache()", "sleep(_)", "wake_up(_)"),
        *("reset_prefix_cache(_)", "reset_prefix_cache(reset_running_requests=1)"),
    ),
    "vllm.v1.core.sched.scheduler.Scheduler": (
        *("requests", "kv_cache_manager", "kv_event_publisher", "has_requests()"),
        *("get_request_counts()", "get_kv_cache_usage()", "running", "scheduler_config"),
        *("max_num_scheduled_tokens", "num_spec_tokens", "vllm_config"),
    ),
    "vllm.v1.core.kv_cache_manager.KVCacheManager": (
        *("coordinator", "take_events()", "record_prefix_cache_stats(_, _)"),
    ),
    "vllm.v1.core.kv_cache_coordinator.KVCacheCoordinator": ("find_longest_cache_hit(_, _)",),
    "vllm.v1.structured_output.StructuredOutputManager": (
        *("backend", "grammar_init(_)", "_create_grammar(_)", "accept_tokens(_, _)"),
    ),
    "vllm.v1.structured_output.request.StructuredOutputRequest": (
        *("_grammar", "reasoning_ended", "reasoner"),
    ),
    "vllm.v1.request.Request": (
        *(
            "is_prefill_chunk",
            "request_id",
            "prompt_token_ids",
            "prompt_embeds",
            "mm_features",
            "lora_request",
        ),
        *("cache_salt", "kv_transfer_params", "sampling_params", "structured_output_request"),
        *("num_prompt_tokens", "num_output_tokens", "output_token_ids", "all_token_ids"),
        *("num_preemptions", "num_in_flight_tokens", "block_hashes", "events", "status"),
        *("prefill_stats", "append_output_token_ids(_)"),
    ),
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner": (
        *("_update_states(_)", "execute_model_state"),
    ),
    "vllm.v1.worker.gpu_input_batch.CachedRequestState": ("req_id", "generator", "__post_init__()"),
    "vllm.v1.core.sched.output.NewRequestData": (
        *("req_id", "prefill_token_ids", "prompt_len", "from_request(_, _)"),
    ),
    "vllm.v1.core.sched.output.SchedulerOutput": (
        *("scheduled_new_reqs", "num_scheduled_tokens", "total_num_scheduled_tokens"),
    ),
    "vllm.v1.kv_offload.cpu.gpu_worker.CPUOffloadingWorker": ("_store_handler", "_load_handler"),
    "vllm.v1.kv_offload.cpu.gpu_worker.SingleDirectionOffloadingHandler": (
        *("_transfer_events", "_fill_group_ops"),
        "_fill_direct_ops(_, group_src=1, group_dst=1, group_size=1, src_skip_count=1, "
        "dst_skip_count=1, all_src=1, all_dst=1, all_sizes=1, op_idx=1)",
        *("layer_refs_per_group", "src_tensors", "dst_tensors"),
    ),
    "vllm.v1.executor.uniproc_executor.UniProcExecutor": ("driver_worker", "_distributed_args()"),
    "vllm.v1.worker.startup_plan": ("compute_plan_fingerprint",),
    "vllm.v1.worker.gpu.cudagraph_utils.CudaGraphManager": (
        *("cudagraph_mode", "compilation_config", "_init_candidates()"),
        *("max_num_reqs", "decode_query_len"),
    ),
    "vllm.v1.core.kv_cache_utils": ("_gen_lora_extra_hash_keys(_)",),
    "vllm.lora.ops.torch_ops.lora_ops": ("bgmv_shrink(_, _, _, _, _)",),
    "vllm.lora.punica_wrapper.punica_cpu": ("bgmv_shrink",),
    # -- KV events and transfer ----------------------------------------------------------------
    "vllm.distributed.kv_events.BlockStored": (
        *("block_hashes", "parent_block_hash", "token_ids", "extra_keys", "group_idx"),
    ),
    "vllm.distributed.kv_events.BlockRemoved": ("block_hashes", "group_idx"),
    "vllm.distributed.kv_events.EventPublisherFactory": ("_registry",),
    "vllm.distributed.kv_transfer.kv_connector.v1.base.KVConnectorTransferResults": (
        *("finished_sending", "finished_recving", "failed_recving"),
    ),
    "vllm.v1.kv_cache_interface.KVCacheConfig": ("num_blocks", "kv_cache_groups"),
    "vllm.config.kv_transfer.KVTransferConfig": (
        *("kv_role", "engine_id", "is_kv_producer", "get_from_extra_config(_, _)"),
    ),
    # -- the configuration ---------------------------------------------------------------------
    "vllm.config.VllmConfig": (
        *("model_config", "cache_config", "parallel_config", "scheduler_config", "lora_config"),
        *("speculative_config", "kv_transfer_config", "kv_events_config", "compilation_config"),
        "use_v2_model_runner",
    ),
    "vllm.config.ModelConfig": (
        *("max_model_len", "dtype", "runner_type", "is_encoder_decoder", "enable_sleep_mode"),
        *(
            "skip_tokenizer_init",
            "is_multimodal_model",
            "supports_multimodal_inputs",
            "renderer_num_workers",
        ),
        *("get_vocab_size()", "get_num_layers(_)", "get_num_kv_heads(_)", "get_head_size()"),
    ),
    "vllm.config.CacheConfig": (
        *("block_size", "num_gpu_blocks", "gpu_memory_utilization", "kv_cache_memory_bytes"),
        *("enable_prefix_caching", "kv_cache_size_tokens", "kv_cache_max_concurrency"),
        "metrics_info()",
    ),
    "vllm.config.SchedulerConfig": (
        *("max_num_seqs", "max_num_batched_tokens"),
        *("enable_chunked_prefill", "disable_chunked_mm_input"),
    ),
    "vllm.config.ParallelConfig": (
        *("world_size", "distributed_executor_backend", "_api_process_count"),
    ),
    "vllm.config.CompilationConfig": ("cudagraph_capture_sizes",),
    # -- messages between the two halves -------------------------------------------------------
    f"{CORE}.EngineCoreRequest": (
        *("request_id", "external_req_id", "prompt_token_ids", "prompt_embeds", "mm_features"),
        *("sampling_params", "lora_request", "cache_salt", "priority", "session_id"),
        *("client_index", "params"),
    ),
    f"{CORE}.EngineCoreOutput": (
        *("request_id", "new_token_ids", "finish_reason", "stop_reason", "events"),
        *("prefill_stats", "kv_transfer_params", "new_logprobs", "new_prompt_logprobs_tensors"),
    ),
    f"{CORE}.EngineCoreOutputs": ("outputs", "scheduler_stats"),
    f"{CORE}.EngineCoreEvent": ("type", "timestamp"),
    "vllm.v1.metrics.stats.PrefillStats": (
        *("num_prompt_tokens", "num_cached_tokens", "num_local_cached_tokens"),
        *("num_cache_creation_tokens", "num_external_cached_tokens"),
    ),
    "vllm.v1.metrics.stats.SchedulerStats": (
        *("prefix_cache_stats", "num_skipped_waiting_reqs", "spec_decoding_stats"),
    ),
    "vllm.v1.spec_decode.metrics.SpecDecodingStats": (
        *("num_drafts", "num_draft_tokens", "num_accepted_tokens"),
        "num_accepted_tokens_per_pos",
    ),
    "vllm.v1.metrics.stats.PrefixCacheStats": ("queries", "hits", "preempted_requests"),
    "vllm.sampling_params.SamplingParams": (
        *("max_tokens", "output_kind", "prompt_logprobs", "skip_reading_prefix_cache"),
        *("structured_outputs", "_bad_words_token_ids"),
    ),
    "vllm.sampling_params.StructuredOutputsParams": ("_backend",),
    # -- the front half, in processors ---------------------------------------------------------
    f"{CORE}.async_llm.AsyncLLM": (
        *("renderer", "output_processor", "output_handler", "model_config", "vllm_config"),
        *("generate(_, _, _)", "add_request", "add_lora(_)", "abort(_, internal=1)"),
    ),
    f"{CORE}.core_client.EngineCoreClient": ("make_async_mp_client",),
    f"{CORE}.output_processor.OutputProcessor": (
        *("request_states", "external_req_ids", "abort_requests(_, internal=1)"),
        "process_outputs(_)",
    ),
    f"{CORE}.output_processor.RequestState": (
        *("request_id", "request_index", "queue", "prompt_len", "prompt_token_ids"),
        "logprobs_processor",
    ),
    f"{CORE}.logprobs.LogprobsProcessor": (
        *("num_logprobs", "num_prompt_logprobs", "_update_prompt_logprobs(_)"),
    ),
    f"{CORE}.input_processor": ("random_uuid",),
    "vllm.renderers.base.BaseRenderer": (
        *("tokenizer", "_executor", "_tokenize_prompt(_, _)", "_tokenize_prompt_async(_, _)"),
        *("_decode", "_async_tokenizer_decode"),
    ),
    "vllm.renderers.hf.HfRenderer": (
        *("_apply_chat_template_async", "render_messages_async(_, _)", "_render_with_timeout(_)"),
    ),
    f"{FRONT}.openai.models.serving.OpenAIServingModels": (
        *("lora_requests", "is_base_model(_)", "show_available_models()"),
    ),
    f"{FRONT}.openai.chat_completion.serving.OpenAIServingChat": ("create_chat_completion(_, _)",),
    f"{FRONT}.openai.completion.serving.OpenAIServingCompletion": ("create_completion(_, _)",),
    f"{FRONT}.openai.responses.serving.OpenAIServingResponses": ("create_responses(_, _)",),
    f"{FRONT}.anthropic.serving.AnthropicServingMessages": (
        *("create_messages(_, _)", "count_tokens(_, _)", "message_stream_converter"),
    ),
    f"{FRONT}.pooling.embed.serving.ServingEmbedding": ("__call__(_, _)",),
    f"{FRONT}.serve.tokenize.serving.ServingTokenization": (
        *("create_tokenize(_, _)", "create_detokenize(_, _)"),
    ),
    f"{FRONT}.openai.completion.serving": ("merge_async_iterators", "time"),
    f"{FRONT}.openai.chat_completion.serving": ("time",),
    f"{FRONT}.openai.responses.protocol": ("time",),
    f"{FRONT}.openai.responses.serving": ("time",),
    f"{FRONT}.anthropic.protocol": ("time",),
    f"{FRONT}.anthropic.serving": ("time", "uuid"),
    "vllm.utils": ("uuid",),
    "vllm.parser.mistral": ("choices",),
}
