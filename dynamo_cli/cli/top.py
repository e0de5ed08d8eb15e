"""``dynamo-llm top``: watch a running server, on this machine or on another one."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from dynamo_cli import api_key
from dynamo_cli.cli.declare import application, option, takes
from dynamo_cli.cli.terminal import is_interactive
from dynamo_cli.config import DEFAULT_PORT
from dynamo_cli.errors import UsageError
from dynamo_cli.plan import limits, ports

if TYPE_CHECKING:
    from dynamo_cli.dashboard.client import DashboardClient

DEFAULT_URL = f"http://localhost:{DEFAULT_PORT}"
WEB_PORT = 8182
MAIN = "from dynamo_cli.cli import main; main()"

app = application()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopOptions:
    """The command line of ``top`` as it was typed."""

    url: Annotated[str, option("--url", metavar="URL", help="URL of the server.")] = DEFAULT_URL
    api_key: Annotated[
        str,
        option(
            "--api-key",
            metavar="KEY",
            help=f"API key of the server. Also {api_key.VARIABLE}, of which the first is used, and "
            f"{api_key.VLLM_VARIABLE}.",
        ),
    ] = ""
    once: Annotated[bool, option("--once", help="Print one screen and exit.")] = False
    as_json: Annotated[bool, option("--json", help="Print the snapshot as JSON.")] = False
    watch: Annotated[bool, option("--watch", help="Print a line per --interval.")] = False
    interval_s: Annotated[
        float,
        option(
            "--interval",
            min=0.25,
            most=limits.MAX_SECONDS,
            metavar="SECONDS",
            help="Interval of --watch.",
        ),
    ] = 1.0
    web: Annotated[bool, option("--web", help="Serve the dashboard to browsers.")] = False
    web_host: Annotated[
        str, option("--web-host", metavar="ADDRESS", help="Where --web listens.")
    ] = "127.0.0.1"
    web_port: Annotated[
        int, option("--web-port", min=1, max=65535, help="Port on which --web listens.")
    ] = WEB_PORT
    allowed_hosts: Annotated[
        list[str] | None,
        option(
            "--allowed-hosts",
            metavar="NAME",
            help="Names by which browsers may call --web; repeatable, * is any. Default: those of "
            "this machine, and any where --web-host lets others in.",
        ),
    ] = None


@app.command()
@takes(TopOptions)
def top(options: TopOptions) -> None:
    """Show live what a server does. Leaving it does not affect the server."""
    once, as_json, watch, web = options.once, options.as_json, options.watch, options.web
    if once + as_json + watch + web > 1:
        raise UsageError("choose one of --once, --json, --watch and --web.")
    url, key = address_of(options.url), options.api_key or api_key.given_by(os.environ)
    if web:
        hosts = tuple(options.allowed_hosts or ())
        _serve_browsers(url, key, options.web_host, options.web_port, hosts)
        return
    from dynamo_cli.dashboard.client import DashboardClient  # noqa: PLC0415 - help needs none of it

    client = DashboardClient(url, key)
    if once or as_json:
        asyncio.run(_print_once(client, as_json=as_json))
    elif watch:
        asyncio.run(_print_lines(client, options.interval_s))
    else:
        _attach(client)


def address_of(url: str) -> str:
    """The server's URL with a scheme and without a path; ``host:port`` is accepted.

    Raises:
        UsageError: it is no URL.
    """
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        fine = False
    if not fine:
        raise UsageError(f"--url is the address of a server like {DEFAULT_URL}, not {url!r}.")
    return url.rstrip("/").removesuffix("/v1")


def _attach(client: DashboardClient) -> None:
    # With --web the dashboard runs for a browser, without a terminal.
    if not is_interactive() and "TEXTUAL_DRIVER" not in os.environ:
        raise UsageError("top needs a terminal; without one use --once, --json or --watch.")
    from dynamo_cli.dashboard import attached  # noqa: PLC0415

    attached.run(client)


async def _print_once(client: DashboardClient, *, as_json: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.dashboard import printed  # noqa: PLC0415

    board = await printed.first_board(client, 0.0 if as_json else printed.RATES_S)
    if as_json:
        sys.stdout.write(printed.as_json(board) + "\n")
    else:
        printed.screen(board, Console())


async def _print_lines(client: DashboardClient, interval_s: float) -> None:
    """Print a line per interval, until Ctrl-C or until the server ends."""
    from dynamo_cli.dashboard import printed  # noqa: PLC0415

    print(printed.WATCH_HEAD, flush=True)
    due = time.monotonic()
    async with aclosing(printed.boards(client)) as boards:
        async for board in boards:
            if time.monotonic() >= due:
                due = max(due, time.monotonic() - interval_s) + interval_s
                print(printed.watch_line(board), flush=True)


def _serve_browsers(url: str, key: str, host: str, port: int, hosts: tuple[str, ...]) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.dashboard.web import WebDashboard  # noqa: PLC0415

    ports.check(host, port, "Choose another with --web-host or --web-port.")
    # Not among the arguments, which every user of this machine can read.
    os.environ[api_key.VARIABLE] = key
    command = shlex.join([sys.executable, "-c", MAIN, "top", "--url", url])
    WebDashboard(command, host, port, hosts, Console(stderr=True)).serve()
