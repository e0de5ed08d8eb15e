"""Options of ``dynamo-llm replay``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dynamo_cli.cli import traces
from dynamo_cli.cli.declare import option
from dynamo_cli.lab.trace.formats import MAX_BLOCK_SIZE, MAX_TOKENS, Format, TimeUnit
from dynamo_cli.plan import limits

REQUESTS, ENGINES, REPORT = "Requests", "Engines", "Report"
MAX_WORKERS = 4096
MAX_KV_BLOCKS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """The command line of ``replay`` as it was typed."""

    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="A file, a pipe, or - for standard input; gzip or not. JSON lines with lengths "
            "and hashes, as those of Mooncake, Qwen or --record, or with prompts; or a CSV file of "
            "Azure or BurstGPT.",
        ),
    ]
    form: Annotated[Format, traces.form(REQUESTS)] = Format.AUTO
    time_unit: Annotated[TimeUnit | None, traces.time_unit(REQUESTS)] = None
    policy: Annotated[
        str,
        option(
            "--policy",
            metavar="A,B,...",
            help="Router modes, kv:COST, and other systems' rules; an unknown name lists them.",
        ),
    ] = "round-robin,least-loaded,kv"
    speed: Annotated[
        str, option("--speed", metavar="X,Y,...", help="Loads: 2 is the trace at twice its speed.")
    ] = "1"
    workers: Annotated[
        int,
        option("--workers", panel=ENGINES, min=1, max=MAX_WORKERS, metavar="N", help="Engines."),
    ] = 8
    prefill_workers: Annotated[
        int,
        option(
            "--prefill-workers",
            panel=ENGINES,
            min=0,
            max=MAX_WORKERS,
            metavar="N",
            help="Engines that only prefill.",
        ),
    ] = 0
    conditional: Annotated[
        bool, option("--conditional-disagg", panel=ENGINES, help="Send them only long prompts.")
    ] = False
    max_local: Annotated[
        int | None,
        option(
            "--max-local-prefill-length",
            panel=ENGINES,
            min=0,
            most=limits.MAX_COUNT,
            metavar="TOKENS",
            help="Longer ones are sent (implies --conditional-disagg).",
        ),
    ] = None
    profile: Annotated[
        str,
        option(
            "--profile",
            panel=ENGINES,
            metavar="NAME|FILE",
            help="How fast and large an engine is: cpu-tiny, gpu-8b, gpu-70b, or a file.",
        ),
    ] = "gpu-8b"
    kv_blocks: Annotated[
        int | None,
        option(
            "--kv-blocks",
            panel=ENGINES,
            min=2,
            most=MAX_KV_BLOCKS,
            metavar="N",
            help="Of each engine. Default: the profile's.",
        ),
    ] = None
    block_size: Annotated[
        int | None,
        option(
            "--block-size",
            panel=ENGINES,
            min=1,
            most=MAX_BLOCK_SIZE,
            metavar="N",
            help="Tokens. Default: the trace's, whose blocks are divided into smaller ones, or "
            "have this size if nothing else tells theirs.",
        ),
    ] = None
    tokenizer: Annotated[
        str, option("--tokenizer", panel=REQUESTS, metavar="MODEL", help="For prompts.")
    ] = ""
    rate: Annotated[
        float,
        option(
            "--rate",
            panel=REQUESTS,
            min=0.001,
            max=1e6,
            metavar="PER_S",
            help="Of prompts without timestamp.",
        ),
    ] = 1.0
    output_tokens: Annotated[
        int,
        option(
            "--output-tokens",
            panel=REQUESTS,
            min=1,
            max=MAX_TOKENS,
            help="Of prompts without max_tokens.",
        ),
    ] = 128
    seed: Annotated[int, option("--seed", help="Of all dice.")] = 0
    slo_ttft: Annotated[
        float | None,
        option(
            "--slo-ttft",
            panel=REPORT,
            min=0,
            most=limits.MAX_MILLISECONDS,
            metavar="MS",
            help="Goodput: first token.",
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
            help="Goodput: mean between tokens.",
        ),
    ] = None
    as_json: Annotated[bool, option("--json", panel=REPORT, help="JSON instead of tables.")] = False
    as_csv: Annotated[bool, option("--csv", panel=REPORT, help="CSV instead of tables.")] = False
    plot: Annotated[
        Path | None,
        option(
            "--plot", panel=REPORT, metavar="FILE.svg|png", help="Hit rates, and TTFT as curves."
        ),
    ] = None
