"""Options of serving except those of HTTP: type, names, panel and help of each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dynamo_cli import __version__
from dynamo_cli.cli import settings
from dynamo_cli.cli.declare import option
from dynamo_cli.config import KV_COSTS, KV_TRANSFERS
from dynamo_cli.plan import limits
from dynamo_cli.plan.typed import ROUTERS

MODEL, WORKERS, ROUTING = "Model", "Workers", "Routing"
DISAGGREGATION, INTERFACE = "Disaggregation", "Interface"


class Ui(StrEnum):
    """How a run is shown in the terminal."""

    AUTO = "auto"
    DASHBOARD = "dashboard"
    PLAIN = "plain"
    NONE = "none"


class EngineKind(StrEnum):
    """Kinds of engines that workers run."""

    VLLM = "vllm"
    MOCK = "mock"


if TYPE_CHECKING:
    Router = str
    KvCost = str
    KvTransfer = str
else:
    Router = Literal[ROUTERS]
    KvCost = Literal[KV_COSTS]
    KvTransfer = Literal[KV_TRANSFERS]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dynamo-llm {__version__}")
        raise typer.Exit


Model = Annotated[
    str,
    option(
        "--model",
        panel=MODEL,
        metavar="NAME",
        help="A Hugging Face id, a folder, [b]demo[/b] (a small chat model) or "
        "[b]tiny[/b] (random weights, for a first test).",
    ),
]
ServedNames = Annotated[
    list[str] | None,
    option(
        "--served-model-name",
        panel=MODEL,
        metavar="NAME",
        help="Name of the model in the API; repeatable. Default: as given to --model.",
    ),
]
MaxModelLen = Annotated[
    str | None,
    option("--max-model-len", panel=MODEL, metavar="TOKENS", help="Longest context of a request."),
]
BlockSize = Annotated[
    int | None,
    option(
        "--block-size",
        panel=MODEL,
        min=1,
        most=limits.MAX_COUNT,
        metavar="TOKENS",
        help="Size of a KV cache block.",
    ),
]
Workers = Annotated[
    str,
    option(
        "--workers",
        "--decode-workers",
        panel=WORKERS,
        metavar="N|auto",
        help="Number of engines, up to 1024; [b]auto[/b]: one per free GPU, or per group of "
        "--worker-tp GPUs.",
    ),
]
WorkerTp = Annotated[
    int,
    option(
        "--worker-tp",
        "--decode-tp",
        panel=WORKERS,
        min=1,
        most=limits.MAX_PROCESSES,
        metavar="N",
        help="Tensor-parallel size of each worker.",
    ),
]
WhichEngine = Annotated[
    EngineKind,
    option(
        "--worker-engine",  # the key in a settings file, in which `engine` is a table
        "--engine",
        panel=WORKERS,
        help="What computes answers. [b]mock[/b] simulates vLLM: it manages KV blocks as vLLM, "
        "takes the time that a profile says, and answers with the words of the prompt.",
    ),
]
EngineProfile = Annotated[
    str | None,
    option(
        "--engine-profile",
        panel=WORKERS,
        metavar="NAME|FILE",
        help="Speed and size of simulated engines. [dim]\\[default: gpu-8b][/dim]",
    ),
]
Speedup = Annotated[
    float | None,
    option(
        "--speedup",
        panel=WORKERS,
        min=0.001,
        most=limits.MAX_FACTOR,
        metavar="X",
        help="How many times faster simulated engines are than their profile.",
    ),
]
ReuseGpus = Annotated[
    bool,
    option("--reuse-gpus", panel=WORKERS, help="Let engines share GPUs when there are too few."),
]
EngineThreads = Annotated[
    int | None,
    option(
        "--engine-threads",
        panel=WORKERS,
        min=1,
        most=limits.MAX_THREADS,
        metavar="N",
        help="Threads per engine on the CPU. Default: cores divided by engines.",
    ),
]
PrefillChunkTokens = Annotated[
    int | None,
    option(
        "--prefill-chunk-tokens",
        panel=WORKERS,
        min=0,
        most=limits.MAX_COUNT,
        metavar="TOKENS",
        help="Most prompt tokens that a step computes while answers stream; 0: as many as vLLM "
        "takes at once. Default: 2048 on GPUs, 512 on the CPU.",
    ),
]
Processors = Annotated[
    str,
    option(
        "--processors",
        panel=WORKERS,
        metavar="N|auto",
        help="Processes that apply chat templates, tokenize, and parse answers; [b]auto[/b]: one "
        "with one engine, else two, so that one can take over from the other; on GPUs one per "
        "engine and at least three, if there are four cores for each.",
    ),
]
RouterPolicy = Annotated[
    Router | None,
    option(
        "--router",
        panel=ROUTING,
        help="How a worker is chosen. [b]kv[/b] weighs load against how much of the prompt is in "
        "each prefix cache. Default: least-loaded with several workers, none with one.",
    ),
]
KvCostFunction = Annotated[
    KvCost,
    option(
        "--kv-cost",
        panel=ROUTING,
        parser=limits.kv_cost,
        help="What kv weighs: the [b]time[/b] that a choice takes, for this request and for all "
        "others, as measured; or [b]blocks[/b] to prefill and to keep (NVIDIA Dynamo 1.x), or the "
        "first NVIDIA Dynamo's [b]shares[/b] of prompt, cache and queue.",
    ),
]
KvOverlapWeight = Annotated[
    float,
    option(
        "--kv-overlap-weight",
        panel=ROUTING,
        min=0,
        most=limits.MAX_FACTOR,
        metavar="X",
        help="Weight of cached blocks relative to load in kv.",
    ),
]
KvTemperature = Annotated[
    float,
    option(
        "--kv-temperature",
        panel=ROUTING,
        min=0,
        most=limits.MAX_FACTOR,
        metavar="X",
        help="With 0, kv takes the lowest cost; above 0, lower costs are only more probable.",
    ),
]
DebugHeaders = Annotated[
    bool,
    option(
        "--debug-headers",
        panel=ROUTING,
        help="Add the headers X-Dynamo-Worker and X-Dynamo-Overlap-Blocks to answers.",
    ),
]
PrefillWorkers = Annotated[
    int,
    option(
        "--prefill-workers",
        panel=DISAGGREGATION,
        min=0,
        most=limits.MAX_PROCESSES,
        metavar="N",
        help="Number of engines that only prefill; the other workers then decode.",
    ),
]
PrefillTp = Annotated[
    int,
    option(
        "--prefill-tp",
        panel=DISAGGREGATION,
        min=1,
        most=limits.MAX_PROCESSES,
        metavar="N",
        help="Tensor-parallel size of each prefill worker.",
    ),
]
ConditionalDisagg = Annotated[
    bool,
    option(
        "--conditional-disagg",
        panel=DISAGGREGATION,
        help="Send only long prompts to prefill workers, and only while their queue is short.",
    ),
]
MaxLocalPrefillLength = Annotated[
    int | None,
    option(
        "--max-local-prefill-length",
        panel=DISAGGREGATION,
        min=0,
        most=limits.MAX_COUNT,
        metavar="TOKENS",
        help="A prompt is long with more tokens than this outside the worker's prefix cache. "
        "Implies --conditional-disagg. [dim]\\[default: 1000][/dim]",
    ),
]
MaxPrefillQueueSize = Annotated[
    int | None,
    option(
        "--max-prefill-queue-size",
        panel=DISAGGREGATION,
        min=0,
        most=limits.MAX_COUNT,
        metavar="JOBS",
        help="With this many jobs queued, workers prefill prompts themselves. Default: 2 per "
        "prefill worker.",
    ),
]
KvTransferMethod = Annotated[
    KvTransfer | None,
    option(
        "--kv-transfer",
        panel=DISAGGREGATION,
        help="How KV blocks get from prefill workers to workers. Default: shm (through the host "
        "cache); nixl where --prefill-tp differs from --worker-tp.",
    ),
]
PrefillAlarm = Annotated[
    float,
    option(
        "--prefill-alarm",
        panel=DISAGGREGATION,
        min=0,
        most=limits.MAX_SECONDS,
        metavar="SECONDS",
        help="Warn when a prefill job has been queued for longer than this.",
    ),
]
UiMode = Annotated[
    Ui,
    option(
        "--ui",
        panel=INTERFACE,
        help="What is shown. [b]auto[/b]: the dashboard on a terminal, else [b]plain[/b] lines; "
        "[b]none[/b]: errors only.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    option(
        "--config",
        panel=INTERFACE,
        metavar="FILE",
        envvar=settings.FILE_VARIABLE,
        show_envvar=False,
        is_eager=True,
        callback=settings.read,
        help="Read settings from a TOML file. The command line and DYNAMO_LLM_* variables take "
        "precedence. [b]dynamo-llm config init[/b] writes such a file.",
    ),
]
DryRun = Annotated[
    bool,
    option(
        "--dry-run",
        panel=INTERFACE,
        help="Check everything except the engine, and show what would be started.",
    ),
]
AsJson = Annotated[bool, option("--json", panel=INTERFACE, help="With --dry-run: show it as JSON.")]
Version = Annotated[
    bool,
    option(
        "--version",
        "-V",
        panel=INTERFACE,
        is_eager=True,  # shown even if another option is wrong
        callback=_show_version,
        help="Show the version and exit.",
    ),
]
