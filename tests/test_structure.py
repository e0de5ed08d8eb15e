"""The rules of the layout: who may import what."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import layout
from tests.support.layout import imported

MAX_FILE_LINES, MAX_FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 400, 50, 9
PROCESSES = (
    "frontend",
    "processor",
    "router",
    "worker",
    "prefill_queue",
    "host_cache",
    "relay",
    "cluster",
    "outpost",
)
ONLY_IN = {
    "vllm": ("engines/vllm",),
    "torch": ("engines/vllm",),
    "textual": ("dashboard",),
    "aiohttp": ("frontend", "dashboard"),
    "opentelemetry": ("frontend/after/tracing.py",),
    "prometheus_client": ("frontend",),
    "pynvml": ("host/gpus.py",),
    "ray": ("cluster",),
    "zmq": ("relay",),
}
PURE = (
    "cli/services.py",
    "doctor/cluster.py",
    "doctor/facts.py",
    "doctor/finding.py",
    "doctor/model_rules.py",
    "doctor/needs.py",
    "doctor/rules.py",
    "plan/limits.py",
    "plan/resolve.py",
    "plan/resolve_engine.py",
    "plan/resolve_host_cache.py",
    "plan/sizes.py",
    "plan/typed.py",
    "plan/resolve_http.py",
    "api_key.py",
    "origin.py",
    "completion",
    "errors.py",
    "deaths.py",
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
    "router/engine_order.py",
    "router/policies",
    "router/caches.py",
    "router/decided.py",
    "router/loading.py",
    "router/ledger.py",
    "router/time_estimator.py",
    "router/promised.py",
    "router/repeats.py",
    "router/report.py",
    "router/state.py",
    "serve_config.py",
    "cluster_config.py",
    "plan/resolve_cluster.py",
    "relay/frames.py",
    "relay/session.py",
    "relay/port.py",
    "shapes.py",
    "host_cache/blocks.py",
    "host_cache/disk.py",
    "host_cache/places.py",
    "host_cache/refusal.py",
    "host_cache/service_time.py",
    "host_cache/state.py",
    "host_cache/waits.py",
    "worker/where_to_prefill.py",
    "worker/admission.py",
    "worker/away.py",
    "worker/capacity.py",
    "prefill_queue/jobs.py",
    "prefill_queue/lazy_heap.py",
    "prefill_queue/state.py",
    "engines/measured.py",
    "engines/prefill_pace.py",
    "engines/prepared.py",
    "engines/mock/agenda.py",
    "engines/mock/block_pool.py",
    "lab/profile/fit.py",
    "engines/mock/profile.py",
    "engines/mock/report.py",
    "engines/mock/request.py",
    "engines/mock/kv_cache.py",
    "engines/mock/state.py",
    "engines/vllm/front/bounds.py",
    "engines/vllm/front/gate.py",
    "engines/vllm/options/hints.py",
    "engines/vllm/options/values.py",
    "engines/vllm/front/weigh.py",
    "frontend/openapi.py",
    "frontend/http/poison.py",
    "frontend/after/record.py",
    "dashboard/draw",
    "dashboard/events.py",
    "dashboard/history.py",
    "dashboard/model.py",
    "supervisor/death_log.py",
    "supervisor/logs.py",
    "supervisor/gpus.py",
    "supervisor/revival.py",
    "supervisor/scaling.py",
    "supervisor/verdict.py",
    "watch",
)
IO_MODULES = {"asyncio", "socket", "subprocess", "multiprocessing", "select", "threading", "time"}


@pytest.mark.parametrize(("package", "homes"), ONLY_IN.items())
def test_heavy_packages_are_imported_only_at_home(package: str, homes: tuple[str, ...]) -> None:
    for name, tree in layout.modules().items():
        if not name.startswith(homes):
            assert package not in {module.partition(".")[0] for module in imported(tree)}, name


def test_processes_never_import_each_other() -> None:
    for name, tree in layout.modules().items():
        own = name.partition("/")[0]
        others = {f"dynamo_cli.{process}" for process in PROCESSES if process != own}
        if own in (*PROCESSES, "engines", "ipc", "watch"):
            found = {".".join(module.split(".")[:2]) for module in imported(tree)}
            assert not found & others, name


def test_one_function_says_why_the_system_refused() -> None:
    """`host/oserrors.py`; errors of ZeroMQ are no `OSError`."""
    for name, tree in layout.modules().items():
        if name not in ("host/oserrors.py", "host/lifeline.py", "relay/wire.py"):
            found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert "strerror" not in found, name


def test_workers_know_only_the_seam_of_engines() -> None:
    """A simulated one starts without vLLM."""
    for name, tree in layout.modules().items():
        if name.startswith(("worker", "engines/mock", "lab")):
            known = {module for module in imported(tree) if "engines.vllm" in module}
            assert known <= {"dynamo_cli.engines.vllm.options.environment.select_devices"}, name


def test_no_process_logs_what_is_not_shown_by_default() -> None:
    """Lines of children below WARNING are not in the log unless ``--log-level`` asks for them."""
    logs = re.compile(r"logger\.info\(|logger\.log\(")
    assert [str(path) for path in layout.ROOT.rglob("*.py") if logs.search(path.read_text())] == []


def test_pure_modules_do_no_io() -> None:
    for name, tree in layout.modules().items():
        if name.startswith(PURE):
            assert not {module.partition(".")[0] for module in imported(tree)} & IO_MODULES, name


def test_only_the_command_line_prints() -> None:
    for name, tree in layout.modules().items():
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
        "heavy = {'vllm', 'torch', 'textual', 'aiohttp', 'transformers', 'ray', 'zmq'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_serving_on_one_host_loads_nothing_of_a_cluster() -> None:
    """What the command and its light processes import without ``--ray``."""
    code = (
        "import sys\n"
        "import dynamo_cli.cli.launch, dynamo_cli.supervisor.tree, dynamo_cli.supervisor.entry\n"
        "import dynamo_cli.router.process, dynamo_cli.worker.decode, dynamo_cli.frontend.process\n"
        "ours = {name for name in sys.modules if name.startswith(('dynamo_cli.cluster.',"
        " 'dynamo_cli.relay', 'dynamo_cli.outpost', 'dynamo_cli.supervisor.nodes'))}\n"
        "assert not ours | {'ray', 'zmq'} & set(sys.modules), ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the layout itself -------------------------------------------------------------------------

ONCE = ("FRONTEND", "ROUTER", "PREFILL_QUEUE", "SECOND_NS")
"""Constants that one module defines and the others import."""

OLD_WORDS = re.compile(
    r"^(Fold|\w+Fold|Feed|NO_WORKER|NOBODY)$"
    r"|[Tt]elling|[Cc]hronicle|company|others_m?s|evicted_m?s|ancestor"
)
"""Words that had two meanings, or that nobody else in the field uses."""


def test_no_files_import_each_other_in_a_circle() -> None:
    assert layout.circles(layout.files()) == []


@pytest.mark.parametrize("folder", layout.folders())
def test_no_entries_of_a_folder_import_each_other_in_a_circle(folder: str) -> None:
    assert layout.circles(layout.entries(folder)) == []


def test_what_tests_import_from_each_other_is_there() -> None:
    """Benchmarks are programs of their own: no test imports them, nor does mypy read them."""
    missing = []
    for path in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                home = layout.ROOT.parent.joinpath(*str(node.module).split("."))
                file = home.with_suffix(".py")
                has = _defined(file) if file.exists() else {one.stem for one in home.iterdir()}
                missing += [(path.name, one.name) for one in node.names if one.name not in has]
    assert missing == []


def _defined(file: Path) -> set[str]:
    """Names that a file assigns, defines or imports at its top."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.ImportFrom() | ast.Import():
                found |= {one.asname or one.name for one in node.names}
            case _:
                names = (one for one in ast.walk(node) if isinstance(one, ast.Name))
                found |= {one.id for one in names if isinstance(one.ctx, ast.Store)}
    return found


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert layout.circles(graph) == [["b", "c"]]


def test_no_file_is_long() -> None:
    for file in layout.modules():
        assert len((layout.ROOT / file).read_text().splitlines()) <= MAX_FILE_LINES, file


def test_no_function_is_long() -> None:
    found = list(layout.functions())
    assert [one for one in found if one.lines > MAX_FUNCTION_LINES] == []
    assert statistics.median(one.lines for one in found) <= MEDIAN_FUNCTION_LINES


def test_every_public_name_has_a_docstring() -> None:
    assert list(layout.undocumented()) == []


def test_every_package_says_what_it_is_for() -> None:
    """What comes in, what goes out, which file to open first."""
    for file, tree in layout.modules().items():
        if file.endswith("/__init__.py"):
            text = ast.get_docstring(tree) or ""
            assert len(re.findall(r"[.:](?:\s|$)", text)) >= 3, file


OLD_FILES = {"placement.py", "children.py", "telling.py", "chronicle.py"}


def test_old_words_are_gone() -> None:
    assert not OLD_FILES & {file.rpartition("/")[2] for file in layout.modules()}
    found = [
        f"{file}:{line} {name}"
        for file, tree in layout.modules().items()
        for line, name in layout.identifiers(tree)
        if OLD_WORDS.search(name)
    ]
    assert found == []


def test_no_two_modules_define_a_type_of_the_same_name() -> None:
    """A reader who finds the name of a class or of an alias knows which type is meant."""
    homes: dict[str, list[str]] = {}
    for file, tree in layout.modules().items():
        for name in _types(tree):
            homes.setdefault(name, []).append(file)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def _types(tree: ast.Module) -> Iterator[str]:
    """Names of a module's classes and aliases.

    Not those of type variables, which mean nothing outside their module, and not those of the
    command's options, which are named after what they set.
    """
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if not name.isupper():
                if re.match("_?[A-Z]", name):
                    calls = {one.func for one in ast.walk(value) if isinstance(one, ast.Call)}
                    if not {"TypeVar", "option"} & {ast.unparse(one) for one in calls}:
                        yield name


@pytest.mark.parametrize("name", ONCE)
def test_a_constant_is_defined_once(name: str) -> None:
    homes = [file for file in layout.modules() if layout.exists(file, name)]
    assert len(homes) <= 1
