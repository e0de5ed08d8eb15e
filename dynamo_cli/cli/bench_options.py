"""Options of ``dynamo-llm bench``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dynamo_cli import api_key
from dynamo_cli.cli import reports, traces
from dynamo_cli.cli.declare import option
from dynamo_cli.lab.trace.formats import MAX_BLOCK_SIZE, Format, TimeUnit
from dynamo_cli.plan import limits

LOAD, PACE, END = "Load", "Pace", "End"
DEFAULT_CLIENTS = 8
DEFAULT_REQUESTS = 200
DEFAULT_ROUNDS = 5
DEFAULT_WARMUP = 8


class BenchEndpoint(StrEnum):
    """Which of OpenAI's endpoints gets the requests."""

    CHAT = "chat"
    COMPLETIONS = "completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The command line of ``bench`` as it was typed."""

    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="URL of a server, for instance http://127.0.0.1:8181."),
    ]
    other_url: Annotated[
        str,
        typer.Argument(
            help="URL of a second server: both get the same load in turns.", metavar="URL2"
        ),
    ] = ""
    model: Annotated[
        str,
        option(
            "--model",
            metavar="NAME",
            help="Model to ask for. Default: the first that the server lists.",
        ),
    ] = ""
    api_key: Annotated[
        str | None,
        option(
            "--api-key",
            metavar="KEY",
            help="API key for the servers.",
            envvar=[api_key.VARIABLE, api_key.VLLM_VARIABLE],
        ),
    ] = None
    endpoint: Annotated[
        BenchEndpoint,
        option("--endpoint", help="Which endpoint of the OpenAI API gets the requests."),
    ] = BenchEndpoint.CHAT
    systems: Annotated[
        int,
        option(
            "--systems",
            panel=LOAD,
            min=1,
            most=limits.MAX_COUNT,
            help="Number of system prompts: width of the tree of prefixes.",
        ),
    ] = 8
    sessions: Annotated[
        int,
        option(
            "--sessions",
            panel=LOAD,
            min=1,
            most=limits.MAX_COUNT,
            help="Simultaneous conversations over each system prompt.",
        ),
    ] = 4
    turns: Annotated[
        int,
        option(
            "--turns",
            panel=LOAD,
            min=1,
            most=limits.MAX_COUNT,
            help="Turns of each conversation: depth of the tree.",
        ),
    ] = 4
    system_tokens: Annotated[
        str,
        option("--system-tokens", panel=LOAD, metavar="N|A:B", help="Tokens of a system prompt."),
    ] = "400:600"
    user_tokens: Annotated[
        str,
        option("--user-tokens", panel=LOAD, metavar="N|A:B", help="Tokens of a user's message."),
    ] = "30:80"
    output_tokens: Annotated[
        str, option("--output-tokens", panel=LOAD, metavar="N|A:B", help="Tokens of an answer.")
    ] = "16:32"
    trace: Annotated[
        Path | None,
        option(
            "--trace",
            panel=LOAD,
            metavar="FILE",
            help="Send the requests of a trace instead. Formats: those of [b]replay[/b] except "
            "prompts.",
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
            help="Tokens per block hash of the trace, if the trace does not tell.",
        ),
    ] = None
    length_scale: Annotated[
        float,
        option(
            "--length-scale",
            panel=LOAD,
            min=0.0001,
            max=1000,
            help="Factor for lengths of the trace: 0.1 makes prompts and answers a tenth as long.",
        ),
    ] = 1.0
    seed: Annotated[
        str | None,
        option(
            "--seed",
            panel=LOAD,
            help="Seed of words, lengths and arrival times. Default: a new one, so that no cache "
            "has the prompts.",
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
            help="Clients that each wait for an answer before their next request. "
            f"[dim]\\[default: {DEFAULT_CLIENTS}][/dim]",
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
            help="Requests per second, at random times (Poisson), without waiting for answers.",
        ),
    ] = None
    speed: Annotated[
        float,
        option(
            "--speed",
            panel=PACE,
            min=0.0001,
            max=1e6,
            help="Replay the trace this many times faster; not with --concurrency or --rate.",
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
            help="Stop after this many requests to each server. "
            f"[dim]\\[default: {DEFAULT_REQUESTS}][/dim]",
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
            help="Stop sending after this time for each server; requests in flight are awaited.",
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
            help="Longest time for one answer.",
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
            help="Parts into which the load is divided; ratios are computed within each. "
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
            help="Number of first requests, which are not measured. "
            f"[dim]\\[default: {DEFAULT_WARMUP}, of a trace 0][/dim]",
        ),
    ] = None
    slo_ttft: reports.SloTtft = None
    slo_itl: reports.SloItl = None
    as_json: reports.AsJson = False
    as_csv: reports.AsCsv = False
