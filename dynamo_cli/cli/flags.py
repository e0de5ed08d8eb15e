"""Every option of ``dynamo-llm``: type, names, panel and help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamo_cli import __version__
from dynamo_cli.cli import settings
from dynamo_cli.cli.resolve import LOG_FORMATS, ROUTERS
from dynamo_cli.config import KV_COSTS, KV_TRANSFERS

MODEL, WORKERS, ROUTING = "Model", "Workers", "Routing"
DISAGGREGATION, HTTP, INTERFACE = "Disaggregation", "HTTP", "Interface"


class Ui(StrEnum):
    """How progress is shown."""

    AUTO = "auto"
    DASHBOARD = "dashboard"
    PLAIN = "plain"
    NONE = "none"


class Engine(StrEnum):
    """What workers run."""

    VLLM = "vllm"
    MOCK = "mock"


class LogLevel(StrEnum):
    """Of the log."""

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


def _option(*names: str, panel: str, help: str, **more: Any) -> Any:  # noqa: A002
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dynamo-llm {__version__}")
        raise typer.Exit


Model = Annotated[
    str,
    _option(
        "--model",
        panel=MODEL,
        metavar="NAME",
        help="A Hugging Face id, a folder, [b]demo[/b] (a small chat model) or "
        "[b]tiny[/b] (random weights, to try the plumbing).",
    ),
]
ServedNames = Annotated[
    list[str] | None,
    _option(
        "--served-model-name",
        panel=MODEL,
        metavar="NAME",
        help="What the API calls it; repeatable. Default: as given to --model.",
    ),
]
MaxModelLen = Annotated[
    str | None, _option("--max-model-len", panel=MODEL, metavar="TOKENS", help="Longest context.")
]
BlockSize = Annotated[
    int | None,
    _option("--block-size", panel=MODEL, min=1, metavar="TOKENS", help="Of a KV cache block."),
]
Workers = Annotated[
    str,
    _option(
        "--workers",
        "--decode-workers",
        panel=WORKERS,
        metavar="N|auto",
        help="Engines; [b]auto[/b] is one per free GPU (or group of --worker-tp).",
    ),
]
WorkerTp = Annotated[
    int,
    _option(
        "--worker-tp", "--decode-tp", panel=WORKERS, min=1, metavar="N", help="GPUs of one engine."
    ),
]
WhichEngine = Annotated[
    Engine,
    _option(
        "--worker-engine",  # the key in a file of settings, where engine is a table
        "--engine",
        panel=WORKERS,
        help="[b]mock[/b] simulates: it keeps its blocks as vLLM does, takes the time that a "
        "profile says, and answers with the words of the prompt.",
    ),
]
EngineProfile = Annotated[
    str | None,
    _option(
        "--engine-profile",
        panel=WORKERS,
        metavar="NAME|FILE",
        help="How fast and large a simulated engine is. [dim]\\[default: gpu-8b][/dim]",
    ),
]
Speedup = Annotated[
    float | None,
    _option(
        "--speedup",
        panel=WORKERS,
        min=0.001,
        metavar="X",
        help="Simulated engines are so many times faster than their profile.",
    ),
]
ReuseGpus = Annotated[
    bool, _option("--reuse-gpus", panel=WORKERS, help="Let engines share GPUs when there are few.")
]
EngineThreads = Annotated[
    int | None,
    _option(
        "--engine-threads",
        panel=WORKERS,
        min=1,
        metavar="N",
        help="Threads of an engine on the CPU. Default: cores / engines.",
    ),
]
Processors = Annotated[
    int,
    _option(
        "--processors",
        panel=WORKERS,
        min=1,
        metavar="N",
        help="Processes that tokenize, apply templates and parse answers.",
    ),
]
RouterPolicy = Annotated[
    Router | None,
    _option(
        "--router",
        panel=ROUTING,
        help="How a worker is chosen: [b]kv[/b] looks at which holds the prompt's prefix in its "
        "cache, and at load. Default: least-loaded when there are several.",
    ),
]
KvCostFunction = Annotated[
    KvCost,
    _option(
        "--kv-cost",
        panel=ROUTING,
        help="What kv weighs: the [b]time[/b] that a choice takes, for this request and for all "
        "others, as measured; or [b]blocks[/b] to prefill and to keep (NVIDIA Dynamo 1.x), or the "
        "[b]ancestor[/b]'s shares of prompt, cache and queue.",
    ),
]
KvOverlapWeight = Annotated[
    float,
    _option(
        "--kv-overlap-weight",
        panel=ROUTING,
        min=0,
        metavar="X",
        help="How much cached blocks count for kv against load.",
    ),
]
KvTemperature = Annotated[
    float,
    _option(
        "--kv-temperature",
        panel=ROUTING,
        min=0,
        metavar="X",
        help="Above 0, kv takes lower costs only with higher probability.",
    ),
]
DebugHeaders = Annotated[
    bool,
    _option(
        "--debug-headers",
        panel=ROUTING,
        help="Answers carry X-Dynamo-Worker and X-Dynamo-Overlap-Blocks.",
    ),
]
PrefillWorkers = Annotated[
    int,
    _option(
        "--prefill-workers",
        panel=DISAGGREGATION,
        min=0,
        metavar="N",
        help="Engines that only prefill; the workers then only decode.",
    ),
]
PrefillTp = Annotated[
    int,
    _option(
        "--prefill-tp", panel=DISAGGREGATION, min=1, metavar="N", help="GPUs of one prefill worker."
    ),
]
ConditionalDisagg = Annotated[
    bool,
    _option(
        "--conditional-disagg",
        panel=DISAGGREGATION,
        help="Send only long prompts to prefill workers, and only while few jobs wait.",
    ),
]
MaxLocalPrefillLength = Annotated[
    int | None,
    _option(
        "--max-local-prefill-length",
        panel=DISAGGREGATION,
        min=0,
        metavar="TOKENS",
        help="Prompt tokens not in the worker's own cache; more are long. Implies "
        "--conditional-disagg. [dim]\\[default: 1000][/dim]",
    ),
]
MaxPrefillQueueSize = Annotated[
    int | None,
    _option(
        "--max-prefill-queue-size",
        panel=DISAGGREGATION,
        min=0,
        metavar="JOBS",
        help="With so many waiting, workers prefill themselves. Default: 2 per prefill worker.",
    ),
]
KvTransferMethod = Annotated[
    KvTransfer | None,
    _option(
        "--kv-transfer",
        panel=DISAGGREGATION,
        help="How KV blocks get from prefill workers to workers. Default: nixl with CUDA where it "
        "is installed, else shm (shared memory).",
    ),
]
KvArenaBytes = Annotated[
    int,
    _option(
        "--kv-arena-bytes",
        panel=DISAGGREGATION,
        min=1,
        metavar="BYTES",
        help="Shared memory for KV blocks on their way, of each prefill worker (shm).",
    ),
]
PrefillAlarm = Annotated[
    float,
    _option(
        "--prefill-alarm",
        panel=DISAGGREGATION,
        min=0,
        metavar="SECONDS",
        help="Warn when a prefill job has waited for longer.",
    ),
]
Host = Annotated[str, _option("--host", panel=HTTP, metavar="ADDRESS", help="Where to listen.")]
HttpPort = Annotated[
    int,
    _option("--http-port", panel=HTTP, min=0, max=65535, metavar="PORT", help="Port to listen on."),
]
ApiKeys = Annotated[
    list[str] | None,
    _option(
        "--api-key",
        panel=HTTP,
        metavar="KEY",
        help=f"Clients must send one of these; repeatable. Also {settings.variable_of('api-key')}.",
    ),
]
EnableAdmin = Annotated[
    bool,
    _option(
        "--enable-admin",
        panel=HTTP,
        help="Who has an --api-key may also change the running server: LoRA adapters, sleep, "
        "the number of workers.",
    ),
]
MaxBodyBytes = Annotated[
    int,
    _option(
        "--max-body-bytes", panel=HTTP, min=1, metavar="BYTES", help="Larger requests get 413."
    ),
]
MaxInflight = Annotated[
    int,
    _option(
        "--max-inflight",
        panel=HTTP,
        min=0,
        metavar="N",
        help="More requests at once get 429; 0: no limit.",
    ),
]
DrainTimeout = Annotated[
    float,
    _option(
        "--drain-timeout",
        panel=HTTP,
        min=0,
        metavar="SECONDS",
        help="After Ctrl-C, how long running requests may take.",
    ),
]
UiMode = Annotated[
    Ui,
    _option(
        "--ui",
        panel=INTERFACE,
        help="[b]auto[/b]: the dashboard on a terminal, else [b]plain[/b] lines; [b]none[/b]: "
        "errors only.",
    ),
]
LowestLogLevel = Annotated[
    LogLevel | None,
    _option(
        "--log-level",
        panel=INTERFACE,
        help="Of everything that is logged. Default: info, and only errors of the engines.",
    ),
]
LogForm = Annotated[
    LogFormat,
    _option("--log-format", panel=INTERFACE, help="[b]json[/b]: one object per line."),
]
AccessLog = Annotated[
    bool,
    _option(
        "--access-log/--no-access-log",
        panel=INTERFACE,
        help="A line for each request that ended (not with the dashboard).",
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    _option(
        "--otlp-endpoint",
        panel=INTERFACE,
        metavar="URL",
        help="Send an OpenTelemetry trace of each request there (OTLP over HTTP).",
    ),
]
LogPrompts = Annotated[
    bool,
    _option("--log-prompts", panel=INTERFACE, help="Let text of requests into the log."),
]
Record = Annotated[
    Path | None,
    _option(
        "--record",
        panel=INTERFACE,
        metavar="FILE",
        help="Append a line for each request that ended well: times, lengths and hashes of blocks, "
        "no text. [b]bench --trace[/b] and [b]replay[/b] read it.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    _option(
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
    _option("--dry-run", panel=INTERFACE, help="Check all but the engine and show the plan."),
]
AsJson = Annotated[bool, _option("--json", panel=INTERFACE, help="With --dry-run: as JSON.")]
Version = Annotated[
    bool,
    _option(
        "--version",
        panel=INTERFACE,
        is_eager=True,  # whatever else is wrong
        callback=_show_version,
        help="Show the version and exit.",
    ),
]
