"""Options of serving for HTTP: type, names and help of each."""

from __future__ import annotations

from typing import Annotated

from dynamo_cli.cli import settings, vllm_environment
from dynamo_cli.cli.declare import option
from dynamo_cli.plan import limits

HTTP = "HTTP"

Host = Annotated[str, option("--host", panel=HTTP, metavar="ADDRESS", help="Where to listen.")]
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
        help=f"Clients must send one of these; repeatable. Also {settings.variable_of('api-key')} "
        f"and {vllm_environment.API_KEY}.",
    ),
]
EnableAdmin = Annotated[
    bool,
    option(
        "--enable-admin",
        panel=HTTP,
        help="Who has an --api-key may also change the running server: LoRA adapters, sleep, "
        "the number of workers, where prompts are prefilled.",
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
        help="Web pages that may use the server from a browser, as "
        "https://chat.example.com; repeatable, or a JSON list; [b]*[/b]: any. Default: its own.",
    ),
]
AllowedMethods = Annotated[
    list[str] | None,
    option(
        "--allowed-methods",
        panel=HTTP,
        metavar="METHOD",
        help="That such pages may use; likewise. Default: any.",
    ),
]
AllowedHeaders = Annotated[
    list[str] | None,
    option(
        "--allowed-headers",
        panel=HTTP,
        metavar="HEADER",
        help="That such pages may send; likewise. Default: any.",
    ),
]
AllowCredentials = Annotated[
    bool,
    option("--allow-credentials", panel=HTTP, help="Such pages may send cookies and the like."),
]
MaxBodyBytes = Annotated[
    int,
    option(
        "--max-body-bytes",
        panel=HTTP,
        min=1,
        most=limits.MAX_BYTES,
        metavar="BYTES",
        help="Larger requests get 413.",
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
        help="More requests at once get 429; 0: no limit.",
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
        help="After Ctrl-C, how long running requests may take.",
    ),
]
