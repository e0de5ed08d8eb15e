#!/usr/bin/env bash
# Builds the image; `--help` says how.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=container/engine.sh
. "$here/engine.sh"

help() {
    cat <<'END'
usage: container/build.sh [options]

Build an image of dynamo-llm with vLLM and a pinned set of packages.

  --target cpu|cuda       for which engine; the default is what this machine has
  --tag IMAGE             its name; the default is dynamo-llm:TARGET
  --base IMAGE            to build on, Debian with Python 3.11; the default is in the Dockerfile.
                          IMAGE@sha256:DIGEST pins it, so that a later build has the same base
  --engine docker|podman  who builds; the default is $CONTAINER_ENGINE, or which of them is here
  --dry-run               print the command and run nothing
  --help                  this

Where pip shall use a mirror, set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL.
Then: container/run.sh
END
}

target='' tag='' base='' engine='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
        --target) target=$(value "$1" "${2-}" $#); shift ;;
        --tag) tag=$(value "$1" "${2-}" $#); shift ;;
        --base) base=$(value "$1" "${2-}" $#); shift ;;
        --engine) engine=$(value "$1" "${2-}" $#); shift ;;
        --dry-run) dry_run=yes ;;
        --help | -h) help; exit ;;
        *) fail "no option '$1'; --help lists them." ;;
    esac
    shift
done
if [ -z "$target" ]; then
    chosen=$("$here/../.ci/engine")
    target=${chosen%%:*}
fi
case $target in cpu | cuda) ;; *) fail "--target is cpu or cuda, not '$target'." ;; esac
choose_engine
root=$(dirname -- "$here")

# The builder of old has no cache mounts, and stops in the middle with a message about its syntax.
if [ "$engine" = docker ] && [ -z "$dry_run" ]; then
    docker buildx version >/dev/null 2>&1 ||
        fail "docker here lacks BuildKit; install its plugin buildx, or take --engine podman."
    export DOCKER_BUILDKIT=1
fi

command=("$engine" build --file "$here/Dockerfile" --tag "${tag:-dynamo-llm:$target}")
if [ "$engine" = podman ]; then
    # Only images in Docker's format have a health check, and only Docker finds the file by itself.
    command+=(--format docker --ignorefile "$here/Dockerfile.dockerignore")
fi
command+=(--build-arg "ENGINE=$target")
if [ -n "$base" ]; then command+=(--build-arg "BASE=$base"); fi
if [ "$target" = cpu ]; then
    # The index that has torch for CPUs is named once, in the set-up of a clone.
    index=$(sed -n 's/^TORCH_CPU_INDEX=//p' "$here/../.ci/setup")
    command+=(--build-arg "TORCH_INDEX=$index")
fi
# For the labels.
command+=(--build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/dynamo_cli/__init__.py")")
if git -C "$root" rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    command+=(--build-arg "REVISION=$(git -C "$root" rev-parse HEAD)")
    command+=(--build-arg "CREATED=$(git -C "$root" log -1 --format=%cI)")
fi
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
    # By name only: the value may hold a password, which is nobody's who lists processes.
    if [ -n "${!name-}" ]; then command+=(--build-arg "$name"); fi
done
perform "${command[@]}" "$root"
