"""Options of ``dynamo-llm bench``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dynamo_cli.cli import traces
from dynamo_cli.cli.declare import option
from dynamo_cli.lab.trace.formats import MAX_BLOCK_SIZE, Format, TimeUnit
from dynamo_cli.plan import limits

API_KEY_VARIABLES = ["DYNAMO_LLM_API_KEY", "VLLM_API_KEY"]
LOAD, PACE, END, REPORT = "Load", "Pace", "End", "Report"
DEFAULT_CLIENTS = 8
DEFAULT_REQUESTS = 200
DEFAULT_ROUNDS = 5
DEFAULT_WARMUP = 8


class Endpoint(StrEnum):
    """Which of OpenAI's endpoints gets the requests."""

    CHAT = "chat"
    COMPLETIONS = "completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The command line of ``bench`` as it was typed."""

    url: Annotated[str, typer.Argument(help="Of a server, http://127.0.0.1:8181 for instance.")]
    other_url: Annotated[
        str,
        typer.Argument(help="Of a second one: both get the same load in turns.", metavar="URL2"),
    ] = ""
    model: Annotated[
        str, option("--model", metavar="NAME", help="Default: the first that the server lists.")
    ] = ""
    api_key: Annotated[
        str | None,
        option("--api-key", metavar="KEY", help="For the servers.", envvar=API_KEY_VARIABLES),
    ] = None
    endpoint: Annotated[Endpoint, option("--endpoint", help="Which of OpenAI's is asked.")] = (
        Endpoint.CHAT
    )
    systems: Annotated[
        int,
        option(
            "--systems",
            panel=LOAD,
            min=1,
            most=limits.MAX_COUNT,
            help="System prompts: width of the tree.",
        ),
    ] = 8
    sessions: Annotated[
        int,
        option(
            "--sessions",
            panel=LOAD,
            min=1,
            most=limits.MAX_COUNT,
            help="Conversations over each of them at once.",
        ),
    ] = 4
    turns: Annotated[
        int,
        option(
            "--turns",
            panel=LOAD,
            min=1,
            most=limits.MAX_COUNT,
            help="Of each conversation: depth of the tree.",
        ),
    ] = 4
    system_tokens: Annotated[
        str, option("--system-tokens", panel=LOAD, metavar="N|A:B", help="Of a system prompt.")
    ] = "400:600"
    user_tokens: Annotated[
        str, option("--user-tokens", panel=LOAD, metavar="N|A:B", help="Of what a user says.")
    ] = "30:80"
    output_tokens: Annotated[
        str, option("--output-tokens", panel=LOAD, metavar="N|A:B", help="Of an answer.")
    ] = "16:32"
    trace: Annotated[
        Path | None,
        option(
            "--trace",
            panel=LOAD,
            metavar="FILE",
            help="Instead: the requests of a trace, as [b]replay[/b] takes them, but no prompts.",
        ),
    ] = None
    form: Annotated[Format, traces.form(LOAD)] = Format.AUTO
    time_unit: Annotated[TimeUnit | None, traces.time_unit(LOAD)] = None
    block_size: Annotated[
        int | None,
        option(
            "--block-size",
            panel=LOAD,
            min=1,
            max=MAX_BLOCK_SIZE,
            metavar="N",
            help="Of a trace: tokens per hash, if nothing else tells.",
        ),
    ] = None
    length_scale: Annotated[
        float,
        option(
            "--length-scale",
            panel=LOAD,
            min=0.0001,
            max=1000,
            help="Of a trace: 0.1 makes prompts and answers a tenth as long.",
        ),
    ] = 1.0
    seed: Annotated[
        str | None,
        option(
            "--seed",
            panel=LOAD,
            help="Of words, lengths and arrivals. Default: a new one, which no cache has seen.",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        option(
            "--concurrency",
            panel=PACE,
            min=1,
            most=limits.MAX_PROCESSES,
            metavar="N",
            help=f"Clients that wait for their answers. [dim]\\[default: {DEFAULT_CLIENTS}][/dim]",
        ),
    ] = None
    rate: Annotated[
        float | None,
        option(
            "--rate",
            panel=PACE,
            min=0.001,
            max=1e6,
            metavar="PER_S",
            help="Requests per second at random times (Poisson), whatever the answers take.",
        ),
    ] = None
    speed: Annotated[
        float,
        option(
            "--speed",
            panel=PACE,
            min=0.0001,
            max=1e6,
            help="Of a trace, so many times as fast as it was; without --concurrency and --rate.",
        ),
    ] = 1.0
    requests: Annotated[
        int | None,
        option(
            "--requests",
            panel=END,
            min=1,
            most=limits.MAX_COUNT,
            metavar="N",
            help=f"After so many for each server. [dim]\\[default: {DEFAULT_REQUESTS}][/dim]",
        ),
    ] = None
    duration: Annotated[
        float | None,
        option(
            "--duration",
            panel=END,
            min=0.1,
            most=limits.MAX_SECONDS,
            metavar="SECONDS",
            help="After so long for each server; answers under way are awaited.",
        ),
    ] = None
    timeout: Annotated[
        float,
        option(
            "--timeout",
            panel=END,
            min=0.1,
            most=limits.MAX_SECONDS,
            metavar="SECONDS",
            help="For one answer.",
        ),
    ] = 600.0
    rounds: Annotated[
        int | None,
        option(
            "--rounds",
            panel=END,
            min=1,
            most=limits.MAX_COUNT,
            metavar="N",
            help="Parts into which the load is cut; ratios are taken within each. "
            f"[dim]\\[default: {DEFAULT_ROUNDS} with two servers][/dim]",
        ),
    ] = None
    warmup: Annotated[
        int | None,
        option(
            "--warmup",
            panel=END,
            min=0,
            most=limits.MAX_COUNT,
            metavar="N",
            help="First requests, which do not count. "
            f"[dim]\\[default: {DEFAULT_WARMUP}, of a trace 0][/dim]",
        ),
    ] = None
    slo_ttft: Annotated[
        float | None,
        option(
            "--slo-ttft",
            panel=REPORT,
            min=0,
            most=limits.MAX_MILLISECONDS,
            metavar="MS",
            help="Goodput: most until a first token.",
        ),
    ] = None
    slo_itl: Annotated[
        float | None,
        option(
            "--slo-itl",
            panel=REPORT,
            min=0,
            most=limits.MAX_MILLISECONDS,
            metavar="MS",
            help="Goodput: most between tokens, in the mean of a request.",
        ),
    ] = None
    as_json: Annotated[bool, option("--json", panel=REPORT, help="JSON instead of a table.")] = (
        False
    )
    as_csv: Annotated[bool, option("--csv", panel=REPORT, help="CSV instead of a table.")] = False
