"""Options of serving for HTTP: type, names and help of each."""

from __future__ import annotations

from typing import Annotated

from dynamo_cli import api_key
from dynamo_cli.cli import settings, vllm_environment
from dynamo_cli.cli.declare import option
from dynamo_cli.plan import limits

HTTP = "HTTP"

Host = Annotated[str, option("--host", panel=HTTP, metavar="ADDRESS", help="Address to listen on.")]
HttpPort = Annotated[
    int,
    option("--http-port", panel=HTTP, min=0, max=65535, metavar="PORT", help="Port to listen on."),
]
ApiKeys = Annotated[
    list[str] | None,
    option(
        "--api-key",
        panel=HTTP,
        metavar="KEY",
        callback=vllm_environment.add_api_key,
        help=f"Key that clients must send; repeatable. Also {settings.variable_of('api-key')} "
        f"and {api_key.VLLM_VARIABLE}.",
    ),
]
EnableAdmin = Annotated[
    bool,
    option(
        "--enable-admin",
        panel=HTTP,
        help="Let clients with an --api-key change the running server: LoRA adapters, sleep, the "
        "number of workers, where prompts are prefilled.",
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    option(
        "--allowed-hosts",
        panel=HTTP,
        metavar="NAME",
        help="Names by which clients may call the server; repeatable, or a JSON list; "
        "[b]*[/b]: any. Default: those of this machine, and any where --host lets others in.",
    ),
]
AllowedOrigins = Annotated[
    list[str] | None,
    option(
        "--allowed-origins",
        panel=HTTP,
        metavar="ORIGIN",
        help="Origins of web pages that may use the server from a browser, such as "
        "https://chat.example.com; repeatable, or a JSON list; [b]*[/b]: any. Default: its own.",
    ),
]
AllowedMethods = Annotated[
    list[str] | None,
    option(
        "--allowed-methods",
        panel=HTTP,
        metavar="METHOD",
        help="HTTP methods that pages of --allowed-origins may use; repeatable, or a JSON list. "
        "Default: any.",
    ),
]
AllowedHeaders = Annotated[
    list[str] | None,
    option(
        "--allowed-headers",
        panel=HTTP,
        metavar="HEADER",
        help="Headers that pages of --allowed-origins may send; repeatable, or a JSON list. "
        "Default: any.",
    ),
]
AllowCredentials = Annotated[
    bool,
    option(
        "--allow-credentials",
        panel=HTTP,
        help="Let pages of --allowed-origins send cookies and other credentials.",
    ),
]
MaxBodyBytes = Annotated[
    int,
    option(
        "--max-body-bytes",
        panel=HTTP,
        min=1,
        most=limits.MAX_BODY_BYTES,
        metavar="BYTES",
        help="Answer larger requests with 413.",
    ),
]
MaxInflight = Annotated[
    int,
    option(
        "--max-inflight",
        panel=HTTP,
        min=0,
        most=limits.MAX_COUNT,
        metavar="N",
        help="Answer further requests with 429 while this many are in flight; 0: no limit.",
    ),
]
DrainTimeout = Annotated[
    float,
    option(
        "--drain-timeout",
        panel=HTTP,
        min=0,
        most=limits.MAX_SECONDS,
        metavar="SECONDS",
        help="How long requests in flight may take after Ctrl-C.",
    ),
]
