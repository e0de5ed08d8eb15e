"""The rules of the layout: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dynamo_cli

ROOT = Path(dynamo_cli.__file__).parent
PROCESSES = ("frontend", "processor", "router", "worker", "prefill_queue")
ONLY_IN = {
    "vllm": ("engines/vllm",),
    "torch": ("engines/vllm",),
    "textual": ("dashboard",),
    "aiohttp": ("frontend", "dashboard"),
    "opentelemetry": ("frontend/after/tracing.py",),
    "prometheus_client": ("frontend",),
    "pynvml": ("host/gpus.py",),
}
PURE = (
    "doctor/facts.py",
    "doctor/needs.py",
    "doctor/rules.py",
    "plan/resolve.py",
    "plan/resolve_engine.py",
    "plan/typed.py",
    "plan/resolve_http.py",
    "frontend/http/origin.py",
    "completion",
    "errors.py",
    "event_stream.py",
    "host/oserrors.py",
    "config.py",
    "messages",
    "topology.py",
    "kv",
    "lab/load/answer.py",
    "lab/load/form.py",
    "lab/load/pace.py",
    "lab/report.py",
    "lab/table.py",
    "lab/load/workload.py",
    "lab/replay",
    "lab/trace",
    "router/policies",
    "router/caches.py",
    "router/ledger.py",
    "router/pace.py",
    "router/promised.py",
    "router/repeats.py",
    "router/report.py",
    "router/state.py",
    "shapes.py",
    "worker/cache_announcer.py",
    "worker/where_to_prefill.py",
    "worker/away.py",
    "prefill_queue/jobs.py",
    "prefill_queue/ranking.py",
    "prefill_queue/state.py",
    "engines/mock/blocks.py",
    "lab/profile/fit.py",
    "engines/mock/profile.py",
    "engines/mock/report.py",
    "engines/mock/request.py",
    "engines/mock/state.py",
    "engines/vllm/front/bounds.py",
    "engines/vllm/front/gate.py",
    "engines/vllm/options/hints.py",
    "engines/vllm/transfer/slots.py",
    "engines/vllm/options/values.py",
    "engines/vllm/front/weigh.py",
    "frontend/openapi.py",
    "frontend/http/poison.py",
    "frontend/after/record.py",
    "dashboard/draw",
    "dashboard/events.py",
    "dashboard/history.py",
    "dashboard/model.py",
    "dashboard/oddities.py",
    "supervisor/logs.py",
    "supervisor/gpus.py",
    "supervisor/scaling.py",
    "supervisor/verdict.py",
    "watch",
)
IO_MODULES = {"asyncio", "socket", "subprocess", "multiprocessing", "select", "threading", "time"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Full names of all that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("package", "homes"), ONLY_IN.items())
def test_heavy_packages_are_imported_only_at_home(package: str, homes: tuple[str, ...]) -> None:
    for name, tree in sources():
        if not name.startswith(homes):
            assert package not in {module.partition(".")[0] for module in imports(tree)}, name


def test_processes_never_import_each_other() -> None:
    for name, tree in sources():
        own = name.partition("/")[0]
        others = {f"dynamo_cli.{process}" for process in PROCESSES if process != own}
        if own in (*PROCESSES, "engines", "ipc", "watch"):
            found = {".".join(module.split(".")[:2]) for module in imports(tree)}
            assert not found & others, name


def test_workers_know_only_the_seam_of_engines() -> None:
    """A simulated one starts without vLLM."""
    for name, tree in sources():
        if name.startswith(("worker", "engines/mock", "lab")):
            known = {module for module in imports(tree) if "engines.vllm" in module}
            assert known <= {"dynamo_cli.engines.vllm.options.environment.select_devices"}, name


def test_pure_modules_do_no_io() -> None:
    for name, tree in sources():
        if name.startswith(PURE):
            assert not {module.partition(".")[0] for module in imports(tree)} & IO_MODULES, name


def test_only_the_command_line_prints() -> None:
    for name, tree in sources():
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        printing = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not printing or name.startswith(("cli/", "models/__main__")), name


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    code = (
        "import sys\n"
        "from dynamo_cli.cli import main\n"
        f"sys.argv = ['dynamo-llm', {option!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'vllm', 'torch', 'textual', 'aiohttp', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
