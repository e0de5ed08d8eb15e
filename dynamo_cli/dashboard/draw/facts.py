"""Draws a worker, a process, a GPU, a node or a log line in full, in words and with units. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw import gpus, nodes
from dynamo_cli.dashboard.draw.style import BAD, LEVELS, named, phase_mark, section
from dynamo_cli.dashboard.draw.workers import Worker
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.node_schema import NodeView
from dynamo_cli.watch.schema import GpuView, ProcessView, WorkerView

LABEL = 16


def _lines(facts: Iterable[tuple[str, str | Text]]) -> list[Text]:
    return [named(name, value, LABEL) for name, value in facts]


def worker(row: Worker) -> Text:
    """Draw all that is known of a worker."""
    lines = _lines(_engine(row.view))
    for gpu_view in row.gpus:
        lines += [*section(f"GPU {gpu_view.gpu}"), *_lines(_gpu(gpu_view))]
    if row.process is not None:
        lines += [*section("process"), *_lines(_process(row.process))]
    return Text("\n").join(lines)


def process(one: ProcessView) -> Text:
    """Draw all that is known of a process."""
    return Text("\n").join(_lines(_process(one)))


def gpu(one: GpuView) -> Text:
    """Draw all that is known of a GPU."""
    return Text("\n").join(_lines(_gpu(one)))


def node(one: NodeView) -> Text:
    """Draw all that is known of another node of the run."""
    return Text("\n").join(_lines(_node(one)))


def line(one: LogView) -> Text:
    """Draw a log line in its full length."""
    facts = _lines(
        [
            ("time", show.clock(one.time_s)),
            ("process", one.name),
            ("level", Text(one.level, LEVELS.get(one.level, ""))),
        ]
    )
    return Text("\n").join([*facts, Text(""), Text(one.text)])


def _engine(view: WorkerView) -> list[tuple[str, str | Text]]:
    tokens = view.num_blocks * view.block_size
    size = (
        f"{view.num_blocks:,} blocks of {view.block_size} tokens, {tokens:,} tokens in all"
        if view.num_blocks
        else "size not known yet"
    )
    return [
        (
            "requests",
            f"{view.num_running_reqs} running, {view.num_waiting_reqs} waiting, "
            f"{view.kept_requests} in its memory",
        ),
        ("sleeps", "yes: it takes no requests until POST /wake_up" if view.asleep else "no"),
        ("KV cache", f"{show.percent(view.kv_cache_usage)} in use"),
        ("", size),
        (
            "hit rate",
            f"{show.percent(view.recent_hit_ratio)} of the last minute, "
            f"{show.percent(view.hit_ratio)} since the start",
        ),
        (
            "TTFT",
            f"p50 {show.seconds(view.ttft_p50_s)}, p95 {show.seconds(view.ttft_p95_s)} "
            "over the last 10 s",
        ),
        ("ITL", f"p95 {show.seconds(view.itl_p95_s)} over the last 10 s"),
        (
            "prompt tokens",
            f"{show.number(round(view.prompt_tokens_per_s))}/s, {view.prompt_tokens:,} so far",
        ),
        (
            "output tokens",
            f"{show.number(round(view.output_tokens_per_s))}/s, {view.output_tokens:,} so far",
        ),
        (
            "preemptions",
            f"{view.preemptions:,}" + (": its KV cache is too small" if view.preemptions else ""),
        ),
        ("engine steps", f"{view.steps:,}"),
        ("full links", f"{view.refused_sends:,} messages found no room"),
    ]


def _process(one: ProcessView) -> list[tuple[str, str | Text]]:
    return [
        ("process", f"{one.name}, pid {one.pid or show.NONE}"),
        ("phase", phase_mark(one.phase)),
        ("since", f"{show.duration(one.phase_s)}"),
        ("started", f"{show.duration(one.uptime_s)} ago"),
        ("restarts", str(one.restarts)),
        ("device", one.device or show.NONE),
        ("memory", f"{show.size(one.rss_bytes)} of the host"),
        ("message", one.reason or show.NONE),
    ]


def _gpu(one: GpuView) -> list[tuple[str, str | Text]]:
    used, total = one.memory_used_bytes, one.memory_total_bytes
    return [
        ("GPU", f"{one.gpu}, {one.product or 'product not known'}"),
        ("UUID", one.uuid or show.NONE),
        ("engines", ", ".join(one.engines)),
        ("utilization", show.percent(one.utilization)),
        ("memory", f"{show.size(used or 0)} of {show.size(total or 0)}, by all processes"),
        *((f"  {name}", show.size(size)) for name, size in one.engine_bytes.items()),
        ("power", gpus.power(one)),
        ("temperature", gpus.temperature(one)),
        ("memory errors", _ecc(one)),
        ("Xid errors", Text(_xids(one), BAD if one.xids else "")),
        ("problem", Text(one.problem or "none", BAD if one.problem else "")),
    ]


def _node(one: NodeView) -> list[tuple[str, str | Text]]:
    return [
        ("node", one.name),
        ("state", nodes.state(one)),
        ("heard", f"{show.seconds(one.silent_s)} ago"),
        ("heartbeat", f"{show.seconds(one.beat_s)} to the node and back"),
        ("sent", f"{one.sent_frames:,} frames, {show.size(one.sent_bytes)}"),
        ("received", f"{one.received_frames:,} frames, {show.size(one.received_bytes)}"),
        ("cuts", f"{one.resyncs:,} times frames were lost, and all links were set up again"),
        ("joins", f"{one.reconnects:,} times the relays have connected again"),
        ("refused", f"{one.refused_connections:,} connections had a wrong key"),
        ("stale", f"{one.stale_frames:,} frames came after the end of their connection"),
        ("log", f"{one.lost_log_lines:,} lines of its log were lost"),
    ]


def _ecc(one: GpuView) -> str:
    found = one.uncorrected_ecc_errors
    return show.NONE if found is None else f"{found} that could not be corrected"


def _xids(one: GpuView) -> str:
    said = (f"{count} of kind {xid}" for xid, count in one.xids.items())
    return ", ".join(said) or "none since the start"
