# What build.sh and run.sh share; they source it.
# shellcheck shell=bash

fail() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# The value of option $1, which is $2 of the $3 words that are left.
value() {
    [ "$3" -ge 2 ] || fail "$1 needs a value; --help says which."
    printf '%s' "$2"
}

# Sets `engine`: the one that was asked for, else the first that is installed.
choose_engine() {
    engine=${engine:-${CONTAINER_ENGINE:-}}
    case $engine in
        docker | podman) ;;
        '')
            for engine in docker podman ''; do
                if [ -n "$engine" ] && command -v "$engine" >/dev/null; then break; fi
            done
            ;;
        *) fail "--engine (or CONTAINER_ENGINE) is docker or podman, not '$engine'." ;;
    esac
    [ -n "$dry_run" ] || command -v "${engine:-docker}" >/dev/null ||
        fail "there is no ${engine:-docker or podman} here; install one, or see --dry-run."
    engine=${engine:-docker}
}

# Becomes "$@", or prints it so that a shell would read the same words.
perform() {
    [ -n "$dry_run" ] || exec "$@"
    local words
    words=$(printf '%q ' "$@")
    printf '%s\n' "${words% }"
}
