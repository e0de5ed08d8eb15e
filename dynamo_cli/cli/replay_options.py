"""Options of ``dynamo-llm replay``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dynamo_cli.cli import reports, traces
from dynamo_cli.cli.declare import option
from dynamo_cli.lab.trace.formats import MAX_BLOCK_SIZE, MAX_TOKENS, Format, TimeUnit
from dynamo_cli.plan import limits

REQUESTS, ENGINES = "Requests", "Engines"
MAX_WORKERS = 4096
MAX_KV_BLOCKS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """The command line of ``replay`` as it was typed."""

    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="A file, a pipe, or - for standard input; gzip or not. JSON lines or an array, "
            "with lengths and hashes as those of Mooncake, Qwen or --record, with prompts, or with "
            "conversations as ShareGPT; or a CSV file of Azure or BurstGPT.",
        ),
    ]
    form: Annotated[Format, traces.form(REQUESTS)] = Format.AUTO
    time_unit: Annotated[TimeUnit | None, traces.time_unit(REQUESTS)] = None
    policy: Annotated[
        str,
        option(
            "--policy",
            metavar="A,B,...",
            help="Router policies, kv:COST, or rules of other systems; an unknown name lists all.",
        ),
    ] = "round-robin,least-loaded,kv"
    speed: Annotated[
        str,
        option(
            "--speed",
            metavar="X,Y,...",
            help="Speeds of the trace: 2 is twice as fast as recorded.",
        ),
    ] = "1"
    workers: Annotated[
        int | None,
        option(
            "--workers",
            panel=ENGINES,
            min=1,
            max=MAX_WORKERS,
            metavar="N",
            help="Number of engines. Default: as in the record, else 8.",
        ),
    ] = None
    prefill_workers: Annotated[
        int | None,
        option(
            "--prefill-workers",
            panel=ENGINES,
            min=0,
            max=MAX_WORKERS,
            metavar="N",
            help="Number of engines that only prefill. Default: as in the record, else 0.",
        ),
    ] = None
    conditional: Annotated[
        bool,
        option(
            "--conditional-disagg", panel=ENGINES, help="Send only long prompts to prefill workers."
        ),
    ] = False
    max_local: Annotated[
        int | None,
        option(
            "--max-local-prefill-length",
            panel=ENGINES,
            min=0,
            most=limits.MAX_COUNT,
            metavar="TOKENS",
            help="Longer prompts are sent to prefill workers (implies --conditional-disagg).",
        ),
    ] = None
    profile: Annotated[
        str,
        option(
            "--profile",
            panel=ENGINES,
            metavar="NAME|FILE",
            help="Speed and size of an engine: cpu-tiny, gpu-8b, gpu-70b, or a file. "
            "Default: gpu-8b.",
        ),
    ] = ""
    kv_blocks: Annotated[
        int | None,
        option(
            "--kv-blocks",
            panel=ENGINES,
            min=2,
            most=MAX_KV_BLOCKS,
            metavar="N",
            help="KV blocks of each engine. Default: as in the record, else as in the profile.",
        ),
    ] = None
    host_cache: Annotated[
        str,
        option(
            "--host-cache",
            panel=ENGINES,
            metavar="SIZE|Nx",
            help="Memory of the host for KV blocks, which all engines share: a size such as 64GiB, "
            "or 4x, which is four times the caches of all engines together; 0: none. Default: as "
            "in the record, else none.",
        ),
    ] = ""
    block_size: Annotated[
        int | None,
        option(
            "--block-size",
            panel=ENGINES,
            min=1,
            most=MAX_BLOCK_SIZE,
            metavar="N",
            help="Tokens per block. Larger blocks of the trace are divided; blocks of a trace that "
            "does not tell their size have this one. Default: as in the trace.",
        ),
    ] = None
    tokenizer: Annotated[
        str,
        option(
            "--tokenizer",
            panel=REQUESTS,
            metavar="MODEL",
            help="Tokenizer for traces with text.",
        ),
    ] = ""
    rate: Annotated[
        float,
        option(
            "--rate",
            panel=REQUESTS,
            min=0.001,
            max=1e6,
            metavar="PER_S",
            help="Requests per second for text without timestamps.",
        ),
    ] = 1.0
    output_tokens: Annotated[
        int,
        option(
            "--output-tokens",
            panel=REQUESTS,
            min=1,
            max=MAX_TOKENS,
            help="Length of answers to prompts without max_tokens.",
        ),
    ] = 128
    seed: Annotated[int, option("--seed", help="Seed of all random numbers.")] = 0
    slo_ttft: reports.SloTtft = None
    slo_itl: reports.SloItl = None
    details: Annotated[
        bool,
        option(
            "--details",
            panel=reports.REPORT,
            help="Print all figures, in tables for each speed.",
        ),
    ] = False
    as_json: reports.AsJson = False
    as_csv: reports.AsCsv = False
    plot: Annotated[
        Path | None,
        option(
            "--plot", panel=reports.REPORT, metavar="FILE.svg|png", help="Plot hit rates and TTFT."
        ),
    ] = None
