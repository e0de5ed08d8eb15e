# bash completion for dynamo-llm. Generated: `make completions` writes it anew.

# Adds the models that need no download to words. In the cache of the hub's library,
# models--OWNER--NAME is OWNER/NAME.
_dynamo_llm_models() {
    local hub=${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}
    local folder name
    words+=' demo tiny'
    for folder in "$hub"/models--*/; do
        name=${folder%/} name=${name##*/models--}
        [[ -d $folder && $name =~ ^[A-Za-z0-9._-]+$ ]] && words+=" ${name/--//}"
    done
}

# What an option of serving takes. Sets kind and words; fails when it takes nothing.
_dynamo_llm_serving() {
    case $1 in
    --model | --tokenizer | --spec-model) kind='model' ;;
    --served-model-name | --max-model-len | --block-size | --workers | --decode-workers | --worker-tp | --decode-tp | --speedup | --engine-threads | --prefill-chunk-tokens | --processors | --kv-overlap-weight | --kv-temperature | --prefill-workers | --prefill-tp | --max-local-prefill-length | --max-prefill-queue-size | --prefill-alarm | --host-cache | --host-cache-min-tokens | --disk-cache | --ray | --migration-limit | --migration-timeout | --worker-timeout | --first-token-timeout | --host | --http-port | --api-key | --allowed-hosts | --allowed-origins | --allowed-methods | --allowed-headers | --max-body-bytes | --max-inflight | --drain-timeout | --log-file-size | --otlp-endpoint | --lora-modules | --default-chat-template-kwargs | --response-role | --tool-call-parser | --tool-server | --max-log-len | --cohere-format | --fingerprint-value | --tokenizer-mode | --seed | --allowed-media-domains | --revision | --code-revision | --tokenizer-revision | --quantization | --quantization-config | --max-logprobs | --config-format | --hf-overrides | --model-class-overrides | --pooler-config | --generation-config | --override-generation-config | --sleep-preserve-parameter-names | --model-impl | --logits-processors | --io-processor-plugin | --renderer-num-workers | --load-format | --safetensors-prefetch-num-threads | --safetensors-prefetch-block-size | --model-loader-extra-config | --ignore-patterns | --pt-load-map-location | --attention-backend | --mamba-backend | --mamba-cache-philox-rounds | --reasoning-parser | --distributed-executor-backend | --pipeline-parallel-size | --distributed-timeout-seconds | --cpu-distributed-timeout-seconds | --numa-bind-nodes | --numa-bind-cpus | --device-ids | --decode-context-parallel-size | --dcp-kv-cache-interleave-size | --cp-kv-cache-interleave-size | --prefill-context-parallel-size | --ubatch-size | --elastic-ep-max-dp-size | --dbo-decode-token-threshold | --dbo-prefill-token-threshold | --eplb-config | --max-parallel-loading-workers | --worker-cls | --worker-extension-cls | --fault-tolerance-config | --gpu-memory-utilization | --device-memory-utilization | --kv-cache-memory-bytes | --num-gpu-blocks-override | --prefix-cache-retention-interval | --kv-cache-dtype-skip-layers | --mamba-block-size | --prefix-match-unit | --replayssm-buffer-len | --kv-offloading-size | --cpu-offload-gb | --cpu-offload-params | --offload-group-size | --offload-num-in-group | --offload-prefetch-step | --offload-params | --limit-mm-per-prompt | --media-io-kwargs | --mm-processor-kwargs | --mm-processor-cache-gb | --mm-encoder-attn-backend | --mm-encoder-fp8-scale-save-margin | --video-pruning-rate | --mm-processor-device | --mm-ipc-gpu-memory-gb | --max-loras | --max-cpu-loras | --lora-target-modules | --default-mm-loras | --max-lora-cls-labels | --logging-config | --log-config-file | --show-hidden-metrics-for-version | --kv-cache-metrics-sample | --custom-histogram-buckets | --max-num-batched-tokens | --max-num-scheduled-tokens | --max-num-seqs | --max-num-active-seqs | --max-num-queued-reqs | --max-num-queued-tokens | --long-prefill-token-threshold | --scheduler-cls | --watermark | --prefill-schedule-interval | --stream-interval | --cudagraph-capture-sizes | --max-cudagraph-capture-size | --ir-op-priority | --speculative-config | --spec-tokens | --watermark-config | --diffusion-config | --ec-transfer-config | --ec-manager-config | --compilation-config | --attention-config | --engram-config | --reasoning-config | --kernel-config | --additional-config | --structured-outputs-config | --aux-output-config | --profiler-config | --optimization-level | --weight-transfer-config) kind='word' ;;
    --worker-engine | --engine) kind='choice' words='vllm mock' ;;
    --engine-profile) kind='file' words='cpu-tiny gpu-70b gpu-8b' ;;
    --router) kind='choice' words='none random round-robin least-loaded kv' ;;
    --kv-cost) kind='choice' words='time blocks shares' ;;
    --kv-transfer) kind='choice' words='shm nixl' ;;
    --ui) kind='choice' words='auto dashboard plain none' ;;
    --log-level) kind='choice' words='debug info warning error' ;;
    --log-format) kind='choice' words='text json' ;;
    --log-file | --record | --config | --chat-template | --tool-parser-plugin | --reasoning-parser-plugin | --mm-encoder-fp8-scale-path | --mm-encoder-fp8-scale-save-path) kind='file' ;;
    --gdn-prefill-backend) kind='choice' words='flashinfer triton cutedsl aiter_flydsl' ;;
    --kda-prefill-backend) kind='choice' words='auto triton flashkda flashinfer fused' ;;
    --kda-decode-backend) kind='choice' words='auto native flashinfer triton' ;;
    --chat-template-content-format) kind='choice' words='auto openai string' ;;
    --tool-strict-level) kind='choice' words='auto function parameter' ;;
    --anthropic-disabled-thinking-effort) kind='choice' words='auto high low max medium none xhigh' ;;
    --fingerprint-mode) kind='choice' words='custom full hash none' ;;
    --runner) kind='choice' words='auto draft generate pooling' ;;
    --convert) kind='choice' words='auto classify embed none' ;;
    --dtype) kind='choice' words='auto bfloat16 float float16 float32 half' ;;
    --hf-config-path | --allowed-local-media-path | --download-dir) kind='folder' ;;
    --logprobs-mode) kind='choice' words='processed_logits processed_logprobs raw_logits raw_logprobs' ;;
    --safetensors-load-strategy) kind='choice' words='eager lazy prefetch torchao None' ;;
    --mamba-ssu-algorithm) kind='choice' words='auto horizontal simple vertical None' ;;
    --dcp-comm-backend) kind='choice' words='a2a ag_rs None' ;;
    --all2all-backend) kind='choice' words='allgather_reducescatter deepep_high_throughput deepep_low_latency deepep_v2 flashinfer_all2allv flashinfer_nvlink_one_sided flashinfer_nvlink_two_sided moonep mori_high_throughput mori_low_latency naive nixl_ep pplx' ;;
    --expert-placement-strategy) kind='choice' words='linear round_robin' ;;
    --kv-cache-dtype) kind='choice' words='auto bfloat16 float16 fp8 fp8_ds_mla fp8_e4m3 fp8_e5m2 fp8_inc fp8_per_token_head int4_per_token_head int8_per_token_head nvfp4 nvfp4_4over6 nvfp4_ds_mla turboquant_3bit_nc turboquant_4bit_nc turboquant_k3v4_nc turboquant_k8v4 ultraquant_4bit' ;;
    --prefix-caching-hash-algo) kind='choice' words='sha256 sha256_cbor xxhash xxhash_cbor' ;;
    --mamba-cache-dtype | --mamba-ssm-cache-dtype) kind='choice' words='auto bfloat16 float16 float32' ;;
    --mamba-cache-mode) kind='choice' words='align none' ;;
    --kv-offloading-backend) kind='choice' words='lmcache native' ;;
    --offload-backend) kind='choice' words='auto prefetch uva' ;;
    --mm-hasher-algorithm) kind='choice' words='blake3 sha256 sha512' ;;
    --mm-encoder-tp-mode) kind='choice' words='data weights' ;;
    --mm-encoder-attn-dtype) kind='choice' words='fp8 None' ;;
    --video-pruning-method) kind='choice' words='evs vidcom2' ;;
    --max-lora-rank) kind='choice' words='1 8 16 32 64 128 256 320 512' ;;
    --lora-dtype) kind='choice' words='auto bfloat16 float16' ;;
    --collect-detailed-traces) kind='choice' words='all model worker None' ;;
    --per-request-spec-decode-metrics) kind='choice' words='detailed none summary' ;;
    --jit-monitor-mode) kind='choice' words='error warn' ;;
    --scheduling-policy) kind='choice' words='fcfs priority' ;;
    --moe-backend) kind='choice' words='aiter aiter_mega_moe aiter_triton_mxfp4_bf16 auto b12x batched_triton cutlass deep_gemm deep_gemm_mega_moe emulation flashinfer_b12x flashinfer_cutedsl flashinfer_cutlass flashinfer_moe_ep_cutedsl flashinfer_moe_ep_mega_deep_gemm flashinfer_trtllm flydsl hpc humming marlin rdna3 triton triton_unfused' ;;
    --linear-backend) kind='choice' words='aiter auto b12x conch cutlass deep_gemm emulation exllama fbgemm flashinfer_b12x flashinfer_cudnn flashinfer_cutedsl flashinfer_cutlass flashinfer_trtllm humming machete marlin torch triton xpu xpu_woq' ;;
    --sparse-indexer-topk-backend) kind='choice' words='aiter auto cooperative deep_select flashinfer per_row persistent torch' ;;
    --spec-method) kind='choice' words='bailing_hybrid_mtp bailing_hybrid_v3_mtp custom_class deepseek_mtp dflash dots3_note_mtp draft_model dspark eagle eagle3 ernie_mtp exaone4_5_mtp exaone_moe_mtp extract_hidden_states gemma4_mtp glm4_moe_lite_mtp glm4_moe_mtp glm5_next_mtp glm_ocr_mtp hy_v3_mtp hy_v4_mtp inkling_mtp kimi_k3_mtp longcat_flash_mtp medusa mimo_mtp mimo_v2_mtp minimax_m3_mtp mlp_speculator mtp nemotron_h_mtp ngram ngram_gpu pangu_ultra_moe_mtp qwen3_5_mtp qwen3_next_mtp qwen4_exp_mtp step3p5_mtp suffix None' ;;
    --performance-mode) kind='choice' words='balanced interactivity throughput' ;;
    *) return 1 ;;
    esac
}

_dynamo_llm() {
    local current=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD-1]} start=
    # "=" splits words, unless COMP_WORDBREAKS was changed.
    if [[ $current == = ]]; then
        current=
    elif [[ $flag == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $current == --*=* ]]; then
        flag=${current%%=*} start=$flag= current=${current#*=}
    fi

    local command='' children='' options='' arguments='' kind=none words='' serves='' index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$command ${COMP_WORDS[index]}" in
        ' chat' | ' completions' | ' top' | ' bench' | ' replay' | ' profile' | ' config' | ' config show' | ' config init' | ' doctor') command+=" ${COMP_WORDS[index]}" ;;
        *) break ;;
        esac
    done
    case $command in
    '')
        children='chat completions top bench replay profile config doctor'
        serves=yes
        ;;
    ' chat')
        options='--url --model --api-key --system --temperature --max-tokens --help'
        case $flag in
    --url | --api-key | --system | --temperature | --max-tokens) kind='word' ;;
    --model) kind='model' ;;
        esac
        arguments='word '
        ;;
    ' completions')
        options='--install --help'
        arguments='choice bash zsh fish'
        ;;
    ' top')
        options='--url --api-key --once --json --watch --interval --web --web-host --web-port --allowed-hosts --help'
        case $flag in
    --url | --api-key | --interval | --web-host | --web-port | --allowed-hosts) kind='word' ;;
        esac
        ;;
    ' bench')
        options='--model --api-key --endpoint --systems --sessions --turns --system-tokens --user-tokens --output-tokens --trace --format --time-unit --block-size --length-scale --seed --concurrency --rate --speed --requests --duration --timeout --rounds --warmup --slo-ttft --slo-itl --json --csv --help'
        case $flag in
    --model) kind='model' ;;
    --api-key | --systems | --sessions | --turns | --system-tokens | --user-tokens | --output-tokens | --block-size | --length-scale | --seed | --concurrency | --rate | --speed | --requests | --duration | --timeout | --rounds | --warmup | --slo-ttft | --slo-itl) kind='word' ;;
    --endpoint) kind='choice' words='chat completions' ;;
    --trace) kind='file' ;;
    --format) kind='choice' words='auto mooncake qwen record prompts sharegpt azure burstgpt' ;;
    --time-unit) kind='choice' words='s ms us ns' ;;
        esac
        arguments='word '
        ;;
    ' replay')
        options='--format --time-unit --policy --speed --workers --prefill-workers --conditional-disagg --max-local-prefill-length --profile --kv-blocks --host-cache --block-size --tokenizer --rate --output-tokens --seed --slo-ttft --slo-itl --details --json --csv --plot --help'
        case $flag in
    --format) kind='choice' words='auto mooncake qwen record prompts sharegpt azure burstgpt' ;;
    --time-unit) kind='choice' words='s ms us ns' ;;
    --policy | --speed | --workers | --prefill-workers | --max-local-prefill-length | --kv-blocks | --host-cache | --block-size | --rate | --output-tokens | --seed | --slo-ttft | --slo-itl) kind='word' ;;
    --profile) kind='file' words='cpu-tiny gpu-70b gpu-8b' ;;
    --tokenizer) kind='model' ;;
    --plot) kind='file' ;;
        esac
        arguments='file '
        ;;
    ' profile')
        options='--output --force --seconds --help'
        case $flag in
    --output) kind='file' ;;
    --seconds) kind='word' ;;
        esac
        serves=yes
        ;;
    ' config')
        children='show init'
        options='--help'
        ;;
    ' config show')
        options='--json --help'
        serves=yes
        ;;
    ' config init')
        options='--model --force --help'
        case $flag in
    --model) kind='model' ;;
        esac
        arguments='file '
        ;;
    ' doctor')
        options='--json --help'
        serves=yes
        ;;
    esac
    local own=$options
    if [[ $serves ]]; then
        options+=" --model --served-model-name --max-model-len --block-size --workers --decode-workers --worker-tp --decode-tp --worker-engine --engine --engine-profile --speedup --reuse-gpus --no-reuse-gpus --engine-threads --prefill-chunk-tokens --processors --router --kv-cost --kv-overlap-weight --kv-temperature --debug-headers --no-debug-headers --prefill-workers --prefill-tp --conditional-disagg --no-conditional-disagg --max-local-prefill-length --max-prefill-queue-size --kv-transfer --prefill-alarm --host-cache --host-cache-min-tokens --disk-cache --ray --migration-limit --migration-timeout --worker-timeout --first-token-timeout --host --http-port --api-key --enable-admin --no-enable-admin --allowed-hosts --allowed-origins --allowed-methods --allowed-headers --allow-credentials --no-allow-credentials --max-body-bytes --max-inflight --drain-timeout --ui --log-level --log-format --log-file --log-file-size --access-log --no-access-log --log-prompts --no-log-prompts --otlp-endpoint --record --config --dry-run --json --version --help"
        own=$options
        options+=" --disable-log-stats --aggregate-engine-logging --fail-on-environ-validation --no-fail-on-environ-validation --gdn-prefill-backend --kda-prefill-backend --kda-decode-backend --enable-log-requests --no-enable-log-requests --lora-modules --chat-template --chat-template-content-format --trust-request-chat-template --no-trust-request-chat-template --trust-request-mm-kwargs --no-trust-request-mm-kwargs --default-chat-template-kwargs --response-role --return-tokens-as-token-ids --no-return-tokens-as-token-ids --enable-auto-tool-choice --no-enable-auto-tool-choice --exclude-tools-when-tool-choice-none --no-exclude-tools-when-tool-choice-none --tool-call-parser --tool-parser-plugin --tool-strict-level --tool-server --max-log-len --enable-prompt-tokens-details --no-enable-prompt-tokens-details --enable-per-request-metrics --no-enable-per-request-metrics --enable-force-include-usage --no-enable-force-include-usage --enable-tokenizer-info-endpoint --no-enable-tokenizer-info-endpoint --enable-log-outputs --no-enable-log-outputs --enable-log-deltas --no-enable-log-deltas --cohere-is-reasoning-model --no-cohere-is-reasoning-model --cohere-format --anthropic-disabled-thinking-effort --log-error-stack --no-log-error-stack --tokens-only --no-tokens-only --enable-scale-out --no-enable-scale-out --fingerprint-mode --fingerprint-value --enable-flash-late-interaction --no-enable-flash-late-interaction --runner --convert --tokenizer --tokenizer-mode --trust-remote-code --no-trust-remote-code --dtype --seed --hf-config-path --allowed-local-media-path --allowed-media-domains --revision --code-revision --tokenizer-revision --quantization --quantization-config --allow-deprecated-quantization --no-allow-deprecated-quantization --enforce-eager --no-enforce-eager --enable-return-routed-experts --no-enable-return-routed-experts --return-sampling-mask --no-return-sampling-mask --max-logprobs --logprobs-mode --use-fp64-gumbel --no-use-fp64-gumbel --enable-trace-replay --no-enable-trace-replay --disable-sliding-window --no-disable-sliding-window --disable-cascade-attn --no-disable-cascade-attn --skip-tokenizer-init --no-skip-tokenizer-init --enable-prompt-embeds --no-enable-prompt-embeds --config-format --hf-token --hf-overrides --model-class-overrides --pooler-config --generation-config --override-generation-config --enable-sleep-mode --no-enable-sleep-mode --sleep-mode-offload-cudagraph --no-sleep-mode-offload-cudagraph --sleep-preserve-parameter-names --enable-cumem-allocator --no-enable-cumem-allocator --enable-nccl-comm-suspend --no-enable-nccl-comm-suspend --model-impl --logits-processors --io-processor-plugin --renderer-num-workers --load-format --download-dir --safetensors-load-strategy --safetensors-prefetch-num-threads --safetensors-prefetch-block-size --model-loader-extra-config --ignore-patterns --use-tqdm-on-load --no-use-tqdm-on-load --pt-load-map-location --attention-backend --mamba-backend --mamba-ssu-algorithm --enable-mamba-cache-stochastic-rounding --no-enable-mamba-cache-stochastic-rounding --mamba-cache-philox-rounds --reasoning-parser --reasoning-parser-plugin --distributed-executor-backend --pipeline-parallel-size --distributed-timeout-seconds --cpu-distributed-timeout-seconds --numa-bind --no-numa-bind --numa-bind-nodes --numa-bind-cpus --device-ids --decode-context-parallel-size --dcp-comm-backend --dcp-q-replicate --no-dcp-q-replicate --dcp-kv-cache-interleave-size --cp-kv-cache-interleave-size --prefill-context-parallel-size --enable-hc-sp --no-enable-hc-sp --enable-expert-parallel --no-enable-expert-parallel --enable-batch-sharded-sampling --no-enable-batch-sharded-sampling --enable-ep-weight-filter --no-enable-ep-weight-filter --all2all-backend --enable-dbo --no-enable-dbo --enable-shm-tensor-arena --no-enable-shm-tensor-arena --ubatch-size --enable-elastic-ep --no-enable-elastic-ep --elastic-ep-max-dp-size --dbo-decode-token-threshold --dbo-prefill-token-threshold --disable-nccl-for-dp-synchronization --no-disable-nccl-for-dp-synchronization --enable-eplb --no-enable-eplb --eplb-config --expert-placement-strategy --max-parallel-loading-workers --ray-workers-use-nsight --no-ray-workers-use-nsight --disable-custom-all-reduce --no-disable-custom-all-reduce --worker-cls --worker-extension-cls --enable-fault-tolerance --no-enable-fault-tolerance --fault-tolerance-config --gpu-memory-utilization --device-memory-utilization --kv-cache-memory-bytes --kv-cache-dtype --num-gpu-blocks-override --enable-prefix-caching --no-enable-prefix-caching --prefix-caching-hash-algo --prefix-cache-retention-interval --kv-cache-dtype-skip-layers --kv-sharing-fast-prefill --no-kv-sharing-fast-prefill --swa-bounded-replay --no-swa-bounded-replay --mamba-cache-dtype --mamba-ssm-cache-dtype --mamba-block-size --prefix-match-unit --mamba-cache-mode --enable-mamba-shared-prefix-checkpoint --no-enable-mamba-shared-prefix-checkpoint --replayssm-buffer-len --use-replayssm --no-use-replayssm --kv-offloading-size --kv-offloading-backend --offload-backend --cpu-offload-gb --cpu-offload-params --offload-group-size --offload-num-in-group --offload-prefetch-step --offload-params --language-model-only --no-language-model-only --limit-mm-per-prompt --enable-mm-embeds --no-enable-mm-embeds --media-io-kwargs --mm-processor-kwargs --mm-processor-cache-gb --mm-hasher-algorithm --mm-encoder-only --no-mm-encoder-only --mm-encoder-tp-mode --mm-encoder-attn-backend --mm-encoder-attn-dtype --mm-encoder-fp8-scale-path --mm-encoder-fp8-scale-save-path --mm-encoder-fp8-scale-save-margin --interleave-mm-strings --no-interleave-mm-strings --skip-mm-profiling --no-skip-mm-profiling --video-pruning-rate --video-pruning-method --mm-processor-device --mm-ipc-gpu-memory-gb --mm-device-do-normalize --no-mm-device-do-normalize --enable-lora --no-enable-lora --max-loras --max-lora-rank --lora-dtype --enable-tower-connector-lora --no-enable-tower-connector-lora --max-cpu-loras --fully-sharded-loras --no-fully-sharded-loras --lora-target-modules --default-mm-loras --specialize-active-lora --no-specialize-active-lora --enable-mixed-moe-lora-format --no-enable-mixed-moe-lora-format --enable-moe-shared-loras --no-enable-moe-shared-loras --max-lora-cls-labels --logging-config --log-config-file --show-hidden-metrics-for-version --collect-detailed-traces --per-request-spec-decode-metrics --kv-cache-metrics --no-kv-cache-metrics --kv-cache-metrics-sample --custom-histogram-buckets --cudagraph-metrics --no-cudagraph-metrics --enable-layerwise-nvtx-tracing --no-enable-layerwise-nvtx-tracing --enable-mfu-metrics --no-enable-mfu-metrics --enable-logging-iteration-details --no-enable-logging-iteration-details --jit-monitor-mode --jit-monitor-verbose --no-jit-monitor-verbose --max-num-batched-tokens --max-num-scheduled-tokens --max-num-seqs --max-num-active-seqs --max-num-queued-reqs --max-num-queued-tokens --long-prefill-token-threshold --long-prefill-token-threshold-adaptive --no-long-prefill-token-threshold-adaptive --scheduling-policy --enable-chunked-prefill --no-enable-chunked-prefill --disable-chunked-mm-input --no-disable-chunked-mm-input --scheduler-cls --scheduler-reserve-full-isl --no-scheduler-reserve-full-isl --watermark --prefill-schedule-interval --disable-hybrid-kv-cache-manager --no-disable-hybrid-kv-cache-manager --async-scheduling --no-async-scheduling --stream-interval --cudagraph-capture-sizes --max-cudagraph-capture-size --ir-op-priority --enable-flashinfer-autotune --no-enable-flashinfer-autotune --moe-backend --linear-backend --sparse-indexer-topk-backend --speculative-config --spec-method --spec-model --spec-tokens --watermark-config --diffusion-config --ec-transfer-config --ec-manager-config --compilation-config --attention-config --engram-config --reasoning-config --kernel-config --additional-config --structured-outputs-config --aux-output-config --profiler-config --optimization-level --performance-mode --weight-transfer-config"
        [[ $kind == none ]] && _dynamo_llm_serving "$flag"
    fi

    COMPREPLY=()
    if [[ $flag != --* || $kind == none ]]; then
        if [[ $current == -* ]]; then
            kind=choice words=$options
        elif ((index == COMP_CWORD)) && [[ $children ]]; then
            kind=choice words=$children
            [[ $command ]] || kind=model # which may stand in the place of a command
        elif [[ $arguments ]]; then
            kind=${arguments%% *} words=${arguments#* }
        else
            kind=choice words=$own
        fi
    fi
    [[ $kind == model ]] && _dynamo_llm_models
    local word list
    read -r -a list <<<"$words"
    for word in "${list[@]}"; do
        [[ $word == "$current"* ]] && COMPREPLY+=("$start$word")
    done
    case $kind in
    file)
        compopt -o filenames
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -P "$start" -f -- "$current")
        ;;
    folder)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -P "$start" -d -- "$current")
        ;;
    model)
        if [[ $current == [./~]* ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -P "$start" -d -- "$current")
        fi
        ;;
    esac
}

complete -F _dynamo_llm dynamo-llm
