#!/usr/bin/env bash
# Runs the image; `--help` says how.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=container/engine.sh
. "$here/engine.sh"

CONFIG_INSIDE=/etc/dynamo-llm.toml
PORT_INSIDE=8181

help() {
    cat <<'END'
usage: container/run.sh [options] [-- dynamo-llm options]

Run dynamo-llm in a container: the API is on http://localhost:8181/v1, for this machine only.

    container/run.sh -it -- --model demo
    container/run.sh --gpus all -- --model ORG/NAME --workers auto --router kv

  -it                     with your terminal: the live view, and Ctrl-C
  --detach                in the background; prints the container's id
  --gpus all|0,1,...      which GPUs it gets; the default is none
  --tag IMAGE             what to run; the default is dynamo-llm:cuda with GPUs, else dynamo-llm:cpu
  --name NAME             of the container
  --port PORT             on this machine, and inside from 1024 on; 8181
  --address ADDRESS       of this machine; the default 127.0.0.1 keeps others out,
                          0.0.0.0 lets them in: set DYNAMO_LLM_API_KEY then
  --cache VOLUME|FOLDER   where models and compiled kernels are kept; dynamo-llm-cache
  --models FOLDER         of yours, readable inside under the same path; repeatable
  --config FILE           of settings, as dynamo-llm --config; the default is $DYNAMO_LLM_CONFIG
  --shm-size SIZE         of /dev/shm; engines of several GPUs need 2g, all else needs none
  --memory SIZE           the most memory that it may take, such as 64g
  --cpus NUMBER           the most CPU time that it may take, in cores
  --engine docker|podman  who runs it; the default is $CONTAINER_ENGINE, or which of them is here
  --dry-run               print the command and run nothing
  --help                  this

What the environment says in DYNAMO_LLM_*, VLLM_API_KEY and HF_TOKEN is handed on, keys by name only.
Build the image first: container/build.sh
END
}

# Podman has no --gpus; both can name single ones.
add_gpus() {
    local gpu
    [[ $gpus =~ ^(all|[0-9]+(,[0-9]+)*)$ ]] || fail "--gpus is all or numbers like 0,1; not '$gpus'."
    if [ "$engine" = podman ]; then
        for gpu in ${gpus//,/ }; do command+=(--device "nvidia.com/gpu=$gpu"); done
    elif [ "$gpus" = all ]; then
        command+=(--gpus all)
    else
        command+=(--gpus "\"device=$gpus\"")
    fi
}

# A volume takes over the rights of /cache in the image; what is in a folder is yours.
add_cache() {
    if [[ $cache != */* ]]; then
        command+=(--volume "$cache:/cache")
        return
    fi
    cache=$(folder --cache "$cache")
    command+=(--volume "$cache:/cache")
    # Podman that root runs maps no users, and refuses to keep one.
    if [ "$engine" = podman ] && [ "$(id -u)" != 0 ]; then command+=(--userns keep-id); fi
    command+=(--user "$(id -u):$(id -g)")
}

# The absolute path of folder $2, the value of option $1.
folder() {
    (cd -- "$2" 2>/dev/null && pwd) || fail "$1: there is no folder '$2'."
}

# Whether variable $1 is no setting but tells of a service or a linked container of that name.
of_a_service() {
    [[ $1 =~ _PORT(_|$) && ${!1} =~ ^(tcp|udp|sctp):// ]] ||
        [[ $1 =~ _(SERVICE_HOST$|SERVICE_PORT(_|$)|PORT_[0-9]+_(TCP|UDP|SCTP)_) ]]
}

tag='' name='' port=8181 address=127.0.0.1 cache=dynamo-llm-cache shm_size='' gpus=''
engine='' dry_run='' terminal=() detach=() models=() limits=() config=${DYNAMO_LLM_CONFIG-}
while [ $# -gt 0 ]; do
    case $1 in
        -it | -ti | -i | -t) terminal+=("$1") ;;
        --detach | -d) detach=(--detach) ;;
        --gpus) gpus=$(value "$1" "${2-}" $#); shift ;;
        --tag) tag=$(value "$1" "${2-}" $#); shift ;;
        --name) name=$(value "$1" "${2-}" $#); shift ;;
        --port) port=$(value "$1" "${2-}" $#); shift ;;
        --address) address=$(value "$1" "${2-}" $#); shift ;;
        --cache) cache=$(value "$1" "${2-}" $#); shift ;;
        --models) path=$(value "$1" "${2-}" $#); models+=("$path"); shift ;;
        --config) config=$(value "$1" "${2-}" $#); shift ;;
        --shm-size) shm_size=$(value "$1" "${2-}" $#); shift ;;
        --memory | --cpus) amount=$(value "$1" "${2-}" $#); limits+=("$1" "$amount"); shift ;;
        --engine) engine=$(value "$1" "${2-}" $#); shift ;;
        --dry-run) dry_run=yes ;;
        --help | -h) help; exit ;;
        --) shift; break ;;
        *) fail "no option '$1'; options of dynamo-llm go behind --, and --help lists ours." ;;
    esac
    shift
done
[[ $port =~ ^[1-9][0-9]{0,4}$ && $port -le 65535 ]] ||
    fail "--port is a number from 1 to 65535, not '$port'."
for word in "$@"; do
    case $word in
        --host | --host=* | --http-port | --http-port=*)
            fail "${word%%=*} is fixed inside; use --address and --port, before the --."
            ;;
        --config | --config=*) fail "--config goes before the --, so that the file gets inside." ;;
    esac
done
choose_engine

# A drain takes 30 s by default; Docker's own patience is 10.
command=("$engine" run --rm --stop-timeout 60 --cap-drop ALL --security-opt no-new-privileges)
# The same port inside, so that the addresses that the server prints are right. Those below 1024 may
# be for root only.
inside=$port
if [ "$port" -lt 1024 ]; then inside=$PORT_INSIDE; fi
command+=("${terminal[@]}" "${detach[@]}" --publish "$address:$port:$inside")
if [ "$inside" != "$PORT_INSIDE" ]; then command+=(--env "DYNAMO_LLM_HTTP_PORT=$inside"); fi
if [ -n "$name" ]; then command+=(--name "$name"); fi
if [ -n "$gpus" ]; then add_gpus; fi
if [ -n "$shm_size" ]; then command+=(--shm-size "$shm_size"); fi
command+=("${limits[@]}")
add_cache
for path in "${models[@]}"; do
    path=$(folder --models "$path")
    command+=(--volume "$path:$path:ro")
done
if [ -n "$config" ]; then
    [ -r "$config" ] || fail "--config: '$config' cannot be read."
    path=$(folder --config "$(dirname -- "$config")")/${config##*/}
    command+=(--volume "$path:$CONFIG_INSIDE:ro" --env "DYNAMO_LLM_CONFIG=$CONFIG_INSIDE")
fi
for variable in $(compgen -A export DYNAMO_LLM_ || true) VLLM_API_KEY HF_TOKEN; do
    case $variable in DYNAMO_LLM_CONFIG | DYNAMO_LLM_HOST | DYNAMO_LLM_HTTP_PORT) continue ;; esac
    if of_a_service "$variable"; then continue; fi
    if [ -n "${!variable-}" ]; then command+=(--env "$variable"); fi
done
if [ -z "$tag" ] && [ -n "$gpus" ]; then tag=dynamo-llm:cuda; fi
command+=("${tag:-dynamo-llm:cpu}")
perform "${command[@]}" "$@"
