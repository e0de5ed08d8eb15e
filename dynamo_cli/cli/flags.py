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
from dynamo_cli.plan.typed import LOG_FORMATS, ROUTERS

MODEL, WORKERS, ROUTING = "Model", "Workers", "Routing"
DISAGGREGATION, INTERFACE = "Disaggregation", "Interface"


class Ui(StrEnum):
    """How a run is shown."""

    AUTO = "auto"
    DASHBOARD = "dashboard"
    PLAIN = "plain"
    NONE = "none"


class Engine(StrEnum):
    """Kinds of engines that workers run."""

    VLLM = "vllm"
    MOCK = "mock"


class LogLevel(StrEnum):
    """Lowest level of the log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


if TYPE_CHECKING:
    Router = str
    KvCost = str
    KvTransfer = str
    LogFormat = str
else:
    Router = Literal[ROUTERS]
    KvCost = Literal[KV_COSTS]
    KvTransfer = Literal[KV_TRANSFERS]
    LogFormat = Literal[LOG_FORMATS]


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
        "[b]tiny[/b] (random weights, to try the plumbing).",
    ),
]
ServedNames = Annotated[
    list[str] | None,
    option(
        "--served-model-name",
        panel=MODEL,
        metavar="NAME",
        help="What the API calls it; repeatable. Default: as given to --model.",
    ),
]
MaxModelLen = Annotated[
    str | None, option("--max-model-len", panel=MODEL, metavar="TOKENS", help="Longest context.")
]
BlockSize = Annotated[
    int | None,
    option(
        "--block-size",
        panel=MODEL,
        min=1,
        most=limits.MAX_COUNT,
        metavar="TOKENS",
        help="Of a KV cache block.",
    ),
]
Workers = Annotated[
    str,
    option(
        "--workers",
        "--decode-workers",
        panel=WORKERS,
        metavar="N|auto",
        help="Engines; [b]auto[/b] is one per free GPU (or group of --worker-tp).",
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
        help="GPUs of one engine.",
    ),
]
WhichEngine = Annotated[
    Engine,
    option(
        "--worker-engine",  # the key in a settings file, in which `engine` is a table
        "--engine",
        panel=WORKERS,
        help="[b]mock[/b] simulates: it keeps its blocks as vLLM does, takes the time that a "
        "profile says, and answers with the words of the prompt.",
    ),
]
EngineProfile = Annotated[
    str | None,
    option(
        "--engine-profile",
        panel=WORKERS,
        metavar="NAME|FILE",
        help="How fast and large a simulated engine is. [dim]\\[default: gpu-8b][/dim]",
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
        help="Simulated engines are so many times faster than their profile.",
    ),
]
ReuseGpus = Annotated[
    bool, option("--reuse-gpus", panel=WORKERS, help="Let engines share GPUs when there are few.")
]
EngineThreads = Annotated[
    int | None,
    option(
        "--engine-threads",
        panel=WORKERS,
        min=1,
        most=limits.MAX_THREADS,
        metavar="N",
        help="Threads of an engine on the CPU. Default: cores / engines.",
    ),
]
Processors = Annotated[
    int,
    option(
        "--processors",
        panel=WORKERS,
        min=1,
        most=limits.MAX_PROCESSES,
        metavar="N",
        help="Processes that tokenize, apply templates and parse answers.",
    ),
]
RouterPolicy = Annotated[
    Router | None,
    option(
        "--router",
        panel=ROUTING,
        help="How a worker is chosen: [b]kv[/b] looks at which holds the prompt's prefix in its "
        "cache, and at load. Default: least-loaded when there are several.",
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
        help="How much cached blocks count for kv against load.",
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
        help="Above 0, kv takes lower costs only with higher probability.",
    ),
]
DebugHeaders = Annotated[
    bool,
    option(
        "--debug-headers",
        panel=ROUTING,
        help="Answers carry X-Dynamo-Worker and X-Dynamo-Overlap-Blocks.",
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
        help="Engines that only prefill; the workers then only decode.",
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
        help="GPUs of one prefill worker.",
    ),
]
ConditionalDisagg = Annotated[
    bool,
    option(
        "--conditional-disagg",
        panel=DISAGGREGATION,
        help="Send only long prompts to prefill workers, and only while few jobs wait.",
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
        help="Prompt tokens not in the worker's own cache; more are long. Implies "
        "--conditional-disagg. [dim]\\[default: 1000][/dim]",
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
        help="With so many waiting, workers prefill themselves. Default: 2 per prefill worker.",
    ),
]
KvTransferMethod = Annotated[
    KvTransfer | None,
    option(
        "--kv-transfer",
        panel=DISAGGREGATION,
        help="How KV blocks get from prefill workers to workers. Default: nixl with CUDA where it "
        "is installed, else shm (shared memory).",
    ),
]
KvArenaBytes = Annotated[
    int,
    option(
        "--kv-arena-bytes",
        panel=DISAGGREGATION,
        min=1,
        most=limits.MAX_BYTES,
        metavar="BYTES",
        help="Shared memory for KV blocks on their way, of each prefill worker (shm).",
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
        help="Warn when a prefill job has waited for longer.",
    ),
]
UiMode = Annotated[
    Ui,
    option(
        "--ui",
        panel=INTERFACE,
        help="[b]auto[/b]: the dashboard on a terminal, else [b]plain[/b] lines; [b]none[/b]: "
        "errors only.",
    ),
]
LowestLogLevel = Annotated[
    LogLevel | None,
    option(
        "--log-level",
        panel=INTERFACE,
        help="Of everything that is logged. Default: info, and only errors of the engines.",
    ),
]
LogForm = Annotated[
    LogFormat,
    option("--log-format", panel=INTERFACE, help="[b]json[/b]: one object per line."),
]
AccessLog = Annotated[
    bool,
    option(
        "--access-log/--no-access-log",
        panel=INTERFACE,
        help="A line for each request that ended (not with the dashboard).",
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    option(
        "--otlp-endpoint",
        panel=INTERFACE,
        metavar="URL",
        help="Send an OpenTelemetry trace of each request there (OTLP over HTTP).",
    ),
]
LogPrompts = Annotated[
    bool,
    option("--log-prompts", panel=INTERFACE, help="Let text of requests into the log."),
]
Record = Annotated[
    Path | None,
    option(
        "--record",
        panel=INTERFACE,
        metavar="FILE",
        help="Append a line for each request that ended well: times, lengths and hashes of blocks, "
        "no text. [b]bench --trace[/b] and [b]replay[/b] read it.",
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
        help="Options from a TOML file; those here and in DYNAMO_LLM_* variables come first. "
        "[b]dynamo-llm config init[/b] writes one.",
    ),
]
DryRun = Annotated[
    bool,
    option("--dry-run", panel=INTERFACE, help="Check all but the engine and show the plan."),
]
AsJson = Annotated[bool, option("--json", panel=INTERFACE, help="With --dry-run: as JSON.")]
Version = Annotated[
    bool,
    option(
        "--version",
        panel=INTERFACE,
        is_eager=True,  # shown even if another option is wrong
        callback=_show_version,
        help="Show the version and exit.",
    ),
]
