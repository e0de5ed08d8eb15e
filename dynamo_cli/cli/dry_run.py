"""``--dry-run``: shows what would be started, as tables or as JSON."""

from __future__ import annotations

import orjson
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dynamo_cli.config import ENGINE_ROLES, FrontendConfig
from dynamo_cli.plan.sizes import sized
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.topology import LinkSpec, ProcessId, Role, links_of
from dynamo_cli.units import KIB

Plan = dict[str, object]


def plan_of(config: ServeConfig) -> Plan:
    """The plan as plain data."""
    frontend = config.frontend
    return {
        "model": config.engine.model,
        "served_names": list(config.engine.served_names),
        "url": _url(frontend),
        "router": config.router.policy if config.router else None,
        "processes": [_process(config, process) for process in config.tree()],
        "links": [
            {
                "from": a.name,
                "to": b.name,
                "forward_bytes": spec.a_to_b_bytes,
                "backward_bytes": spec.b_to_a_bytes,
                "carries": spec.carries,
            }
            for a, b, spec in _links(config)
        ],
        "engine_args": list(config.engine.args),
        "host_cache_bytes": config.host_cache.size_bytes if config.host_cache else None,
        "disk_cache": _disk(config),
        "kv_cache_limit_bytes": config.engine.kv_cache_limit_bytes or None,
    }


def _disk(config: ServeConfig) -> Plan | None:
    disk = config.host_cache.disk if config.host_cache else None
    return {"folder": disk.folder, "bytes": disk.size_bytes} if disk else None


def _url(frontend: FrontendConfig) -> str:
    host = f"[{frontend.host}]" if ":" in frontend.host else frontend.host
    return f"http://{host}:{frontend.port}/v1"


def to_json(config: ServeConfig) -> str:
    """The plan as JSON."""
    return orjson.dumps(plan_of(config), option=orjson.OPT_INDENT_2).decode()


def show(config: ServeConfig, console: Console) -> None:
    """Print the plan as tables."""
    frontend = config.frontend
    console.print(
        f"[b]{escape(config.engine.model)}[/b] as {escape(', '.join(config.engine.served_names))} "
        f"on {escape(_url(frontend))}, "
        f"router {config.router.policy if config.router else 'none'}",
        highlight=False,
    )
    if config.host_cache is not None:
        where = " on each node" if config.cluster is not None else ""
        size = sized(config.host_cache.size_bytes)
        console.print(f"host cache: {size}{where}", highlight=False)
        if (disk := config.host_cache.disk) is not None:
            text = f"disk cache: {sized(disk.size_bytes)} in {disk.folder}{where}"
            console.print(text, highlight=False, markup=False)
    processes = _table("process", "started", "device", "threads")
    for process in config.tree():
        row = _process(config, process)
        processes.add_row(
            *(str(row[key] or "") for key in ("name", "started", "device", "threads"))
        )
    console.print(processes)
    links = _table("from", "to", "carries", "forward", "backward")
    for a, b, spec in _links(config):
        sizes = (f"{size // KIB} KiB" for size in (spec.a_to_b_bytes, spec.b_to_a_bytes))
        links.add_row(a.name, b.name, spec.carries, *sizes)
    console.print(links)
    words = " ".join(config.engine.args) or "none"
    console.print(f"engine arguments: {words}", highlight=False, markup=False)


def _process(config: ServeConfig, process: ProcessId) -> dict[str, object]:
    forked = config.forked(process)
    threads = config.engine.threads if process.role in ENGINE_ROLES else 0
    return {
        "name": process.name,
        "started": f"forked from the {Role.ZYGOTE}" if forked else "spawned",
        "device": config.device_of(process),
        "threads": threads or None,
    }


def _links(config: ServeConfig) -> list[tuple[ProcessId, ProcessId, LinkSpec]]:
    children = config.tree()
    return [
        (a, b, spec)
        for place, process in enumerate(children)
        for a, b, spec in links_of(process, children[:place])
        if spec.joins(config.machine_of(a), config.machine_of(b))
    ]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
