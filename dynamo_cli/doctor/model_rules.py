"""The rules about what is to be served: options, model and memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dynamo_cli.doctor.facts import Facts, Place
from dynamo_cli.doctor.finding import Finding, fail, ok, warn
from dynamo_cli.doctor.needs import Needs, needs_of, shape_of
from dynamo_cli.plan.sizes import sized

DUMMY = "dummy"
"""The ``--load-format`` that makes random weights instead of reading files."""

SIMULATED = "some 50 MiB each"

CPU_HEAD_DIMS_FROM = 32
"""Width of the smallest heads that vLLM's attention on the CPU supports."""


def plan(facts: Facts) -> Iterator[Finding]:
    """Whether the machine has what the options ask for."""
    if facts.plan_problem:
        yield fail("options", facts.plan_problem, "dynamo-llm --help")


def model(facts: Facts) -> Iterator[Finding]:
    """Whether the model is here, and whether its engines fit into memory."""
    if facts.model is None:
        yield ok("model", "none was named: --model NAME says what it needs")
        return
    name = facts.model.name
    if facts.model.place is Place.NOWHERE:
        yield fail("model", facts.model.problem, "--model demo needs no hub")
    elif facts.model.place is Place.FETCHED:
        yield ok("model", f"{name} is not here yet; it is fetched when it is first served")
    elif facts.engine_options.get("--load-format") == DUMMY:
        yield ok("model", f"{name} with random weights (--load-format {DUMMY})")
    elif facts.model.weights_bytes == 0:
        yield warn("model", f"{name} has no weights here", "serving tries to fetch them")
    else:
        yield ok("model", f"{name}, {sized(facts.model.weights_bytes)} of weights")
    if facts.simulated:
        yield ok(
            "engines", f"{facts.engines_here} simulated ones, which take {SIMULATED} of memory"
        )
    elif facts.model.config:
        yield from _shape(facts)
        if needs := needs_of(facts):
            yield from _needs(facts, needs)


def _shape(facts: Facts) -> Iterator[Finding]:
    """Whether vLLM's attention on the CPU supports the width of the heads."""
    shape = shape_of(facts.model.config if facts.model else {})
    if shape is None:
        yield warn("model", "its config.json does not say how large it is", "try to serve it")
        return
    if facts.machine is None or facts.machine.gpus:
        return
    if shape.head_dim < CPU_HEAD_DIMS_FROM:
        yield fail(
            "model",
            f"its heads are {shape.head_dim} wide, which crashes vLLM on a CPU",
            f"a model with heads of {CPU_HEAD_DIMS_FROM} or more",
        )


def _needs(facts: Facts, needs: Needs) -> Iterator[Finding]:
    yield ok(
        "KV cache",
        f"{needs.kv_token_bytes / 1024:.4g} KiB for a token; {sized(needs.kv_bytes)} hold about "
        f"{needs.tokens_fit} tokens, {needs.tokens_fit / needs.context_tokens:.1f} requests of "
        f"{needs.context_tokens}",
    )
    if needs.tokens_fit < needs.context_tokens:
        yield fail(
            "KV cache",
            "it cannot hold one request of full length",
            f"--max-model-len {max(1, needs.tokens_fit)}, or fewer engines",
        )
    on_gpus = facts.machine is not None and bool(facts.machine.gpus)
    where = "of a GPU" if on_gpus else "of memory"
    text = (
        f"an engine takes {sized(needs.engine_bytes)} {where}, {sized(needs.available_bytes)} are "
        f"free; {needs.engines_fit} fit, {needs.engines} wanted"
    )
    if on_gpus and needs.engine_bytes > needs.available_bytes:
        yield fail("engines", text, "end what uses the GPU, or a lower --gpu-memory-utilization")
    elif needs.engines > needs.engines_fit:
        remedy = "fewer --workers, a smaller model or a smaller --kv-cache-memory-bytes"
        yield fail("engines", text, remedy)
    else:
        yield ok("engines", text)
