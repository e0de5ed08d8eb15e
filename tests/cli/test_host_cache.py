"""``--host-cache``: sizes, what it does not go with, and how much memory there is for it."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dynamo_cli.cli import dry_run, launch, profile
from dynamo_cli.config import Device, DiskCacheConfig, HostCacheConfig
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.host import unnamed_file
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.models import catalog
from dynamo_cli.plan import disk_folder
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve import resolve
from dynamo_cli.plan.resolve_host_cache import HAND_OVER_BYTES_ON_CPU, sized_by_model, warnings
from dynamo_cli.plan.sizes import size_of, sized
from dynamo_cli.plan.typed import Typed
from dynamo_cli.topology import HOST_CACHE
from dynamo_cli.units import GIB, KIB, MIB

CPU = Machine(cores=8, available_bytes=20 * GIB, nixl=True, total_bytes=32 * GIB)
TYPED = Typed(model="tiny", host_cache="4GiB")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64GiB", 64 * GIB),
        ("500MiB", 500 * MIB),
        ("500 mib", 500 * MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("4096", 4096),
        ("2KiB", 2 * KIB),
        ("1TB", 10**12),
        ("9007199254740993", 2**53 + 1),
        ("0", 0),
    ],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert size_of("--x", text) == size


@pytest.mark.parametrize("text", ["64G", "GiB", "-1", "1e3", "a lot", "", "1,5GiB", "AUTO"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--host-cache takes a size like 64GiB"):
        resolve(replace(TYPED, host_cache=text), CPU)


def test_sizes_are_shown_as_people_read_them() -> None:
    assert [sized(3 * GIB // 2), sized(340 * MIB)] == ["1.5 GiB", "340 MiB"]


def test_there_is_none_by_default_or_with_0() -> None:
    for text in (Typed.host_cache, "0", "0GiB"):
        config = resolve(replace(TYPED, host_cache=text), CPU)
        assert config.host_cache is None
        assert HOST_CACHE not in config.tree()


def test_it_is_made_for_one_worker_and_for_several() -> None:
    for workers in ("1", "3"):
        typed = replace(TYPED, workers=workers, host_cache_min_tokens=100)
        config = resolve(typed, CPU)
        assert config.host_cache == HostCacheConfig(4 * GIB, min_tokens=100)
        assert config.worker_config(0).engine.host_cache == config.host_cache
        assert HOST_CACHE in config.tree()


def test_engines_on_a_cpu_get_caches_of_what_it_leaves() -> None:
    typed = replace(TYPED, workers="4")
    limits = {
        size: resolve(replace(typed, host_cache=size), CPU).engine.kv_cache_limit_bytes
        for size in ("0", "10GiB", "30GiB")
    }
    assert limits == {"0": 2 * GIB, "10GiB": GIB, "30GiB": 64 * MIB}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prefill_workers": 1, "kv_transfer": "nixl"}, "does not work with --kv-transfer nixl"),
        (
            {"prefill_workers": 1, "host_cache_min_tokens": 5},
            "min-tokens does not work with --prefill-workers",
        ),
        (
            {
                "prefill_workers": 1,
                "host_cache": "0",
                "engine_args": ("--no-enable-prefix-caching",),
            },
            "prefilled KV blocks go through a host cache (--kv-transfer shm), and --host-cache",
        ),
        (
            {"engine_args": ("--no-enable-prefix-caching",)},
            "which --no-enable-prefix-caching turns off",
        ),
        ({"engine_args": ("--prefix-caching-hash-algo", "xxhash")}, "sha256_cbor, not xxhash"),
        ({"engine_args": ("--prefix-caching-hash-algo=xxhash_cbor",)}, "not xxhash_cbor"),
        ({"host_cache": "64"}, "--host-cache 64 has no room for KV blocks: without a unit"),
        ({"host_cache": "63KiB"}, "--host-cache 63KiB has no room for KV blocks"),
        (
            {"engine": "mock", "host_cache": "1MiB"},
            "tokens of simulated engines, which takes 2 MiB",
        ),
        (
            {"engine": "mock", "host_cache": "1GiB", "prefill_workers": 1},
            "--host-cache does not work with simulated prefill workers",
        ),
        ({"host_cache": "33GiB"}, "is more than the 32.0 GiB of memory"),
        ({"host_cache": "0", "host_cache_min_tokens": 5}, "tokens works only with --host-cache"),
        ({"host_cache": "0", "disk_cache": "/x:9GiB"}, "--disk-cache works only with --host-cache"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, object], says: str) -> None:
    with pytest.raises((UsageError, ResourceError)) as refused:
        resolve(replace(TYPED, **changes), CPU)  # type: ignore[arg-type]
    assert says in refused.value.message
    assert "--host-cache" in refused.value.message


def test_simulated_engines_may_have_more_memory_than_there_is() -> None:
    typed = replace(TYPED, engine="mock", host_cache="4TiB")
    config = resolve(typed, CPU)
    assert config.host_cache is not None
    assert config.host_cache.size_bytes == 4 << 40
    assert warnings(config, CPU) == []
    with pytest.raises(UsageError, match="which have at most 20,000,000"):
        resolve(replace(typed, host_cache="100000TiB"), CPU)


def test_engines_that_cut_blocks_otherwise_are_refused() -> None:
    gpus = tuple(Gpu(Device(str(i), f"GPU-{i}"), "H100", 80 * GIB, 0) for i in range(4))
    typed = replace(TYPED, prefill_workers=1, prefill_tp=2, kv_transfer="shm")
    with pytest.raises(UsageError, match=r"needs equal --prefill-tp \(2\) and --worker-tp"):
        resolve(typed, replace(CPU, gpus=gpus))
    typed = replace(typed, kv_transfer=None, host_cache="0")
    assert resolve(typed, replace(CPU, gpus=gpus)).host_cache is None  # by NIXL


def test_prefilled_blocks_go_through_one_that_nobody_asked_for() -> None:
    typed = replace(TYPED, host_cache="0", prefill_workers=1)
    config = resolve(typed, CPU)
    assert config.host_cache == HostCacheConfig(HAND_OVER_BYTES_ON_CPU)
    for engine in (config.worker_config(0).engine, config.prefill_worker_config(0).engine):
        assert engine.host_cache == config.host_cache
    scarce = resolve(typed, replace(CPU, available_bytes=4 * GIB))
    assert scarce.host_cache == HostCacheConfig(GIB), "a quarter of what is available"
    assert resolve(replace(typed, engine="mock"), CPU).host_cache is None
    assert resolve(replace(typed, host_cache="4GiB"), CPU).host_cache == HostCacheConfig(4 * GIB)


def test_vllms_own_offloading_is_refused() -> None:
    gpu = Gpu(Device("0", "GPU-0"), "H100", 80 * GIB, 0)
    typed = replace(TYPED, engine_args=("--kv-offloading-size", "4"))
    with pytest.raises(UsageError, match="replaces --kv-offloading-size"):
        resolve(typed, replace(CPU, gpus=(gpu,)))


@pytest.mark.parametrize(
    "words",
    [
        ("--no-enable-prefix-caching", "--enable-prefix-caching"),
        ("--prefix-caching-hash-algo", "sha256_cbor"),
        ("--prefix-caching-hash-algo", "sha256"),
    ],
)
def test_what_works_is_taken(words: tuple[str, ...]) -> None:
    assert resolve(replace(TYPED, engine_args=words), CPU).host_cache is not None


def test_auto_takes_half_of_what_is_available_less_the_weights() -> None:
    typed = replace(TYPED, host_cache="auto", workers="2")
    config = resolve(typed, CPU)
    assert config.host_cache == HostCacheConfig(10 * GIB)
    on_cpu = sized_by_model(config, typed, 3 * GIB)
    assert on_cpu.host_cache == HostCacheConfig(4 * GIB), "each engine has weights of its own"
    gpus = tuple(Gpu(Device(str(i), f"GPU-{i}"), "H100", 80 * GIB, 0) for i in range(2))
    on_gpus = sized_by_model(resolve(typed, replace(CPU, gpus=gpus)), typed, 3 * GIB)
    assert on_gpus.host_cache == HostCacheConfig(7 * GIB), "they read the same files"
    assert sized_by_model(resolve(TYPED, CPU), TYPED, 3 * GIB) == resolve(TYPED, CPU)
    with pytest.raises(ResourceError, match="auto finds no memory for KV blocks"):
        sized_by_model(config, typed, 5 * GIB)
    least = sized_by_model(config, typed, 5 * GIB - 32 * MIB).host_cache
    assert least == HostCacheConfig(64 * MIB)
    with pytest.raises(ResourceError, match="auto finds no memory for KV blocks"):
        sized_by_model(config, typed, 5 * GIB - 31 * MIB)


def test_the_weights_are_those_of_the_newest_snapshot_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshots = tmp_path / "models--owner--name" / "snapshots"
    assert catalog.folder_of("owner/name", ask_hub=False) is None
    for name, changed_s in (("b", 1), ("a", 3), ("c", 2)):
        (snapshots / name).mkdir(parents=True)
        (snapshots / name / "config.json").write_text("{}")
        os.utime(snapshots / name / "config.json", (changed_s, changed_s))
    assert catalog.folder_of("owner/name", ask_hub=False) == snapshots / "a"


def test_more_than_is_available_is_worth_a_warning() -> None:
    assert warnings(resolve(TYPED, CPU), CPU) == []
    assert warnings(resolve(replace(TYPED, host_cache="0"), CPU), CPU) == []
    (warning,) = warnings(resolve(replace(TYPED, host_cache="21GiB"), CPU), CPU)
    assert "takes 21.0 GiB as it fills, and 20.0 GiB" in warning


def test_a_profile_is_that_of_an_engine_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No supervisor makes the memory for an engine that is measured."""
    monkeypatch.setattr(
        launch, "plan_with_model", lambda typed: resolve(typed, replace(CPU, total_bytes=0))
    )
    assert profile._engine(["--model", "tiny", "--host-cache", "1GiB"]).host_cache is None


# -- the tier on disk --------------------------------------------------------------------------


def test_a_disk_cache_is_a_folder_and_a_size() -> None:
    for text, folder in (("/a/b:200GiB", "/a/b"), ("c:d:200 GiB", "c:d")):
        cache = resolve(replace(TYPED, disk_cache=text), CPU).host_cache
        assert cache is not None
        assert cache.disk == DiskCacheConfig(folder, 200 * GIB)
        assert warnings(resolve(replace(TYPED, disk_cache=text), CPU), CPU) == []
    assert resolve(TYPED, CPU).host_cache == HostCacheConfig(4 * GIB)


def test_a_dry_run_shows_the_disk_cache() -> None:
    config = resolve(replace(TYPED, disk_cache="/a/b:200GiB"), CPU)
    assert dry_run.plan_of(config)["disk_cache"] == {"folder": "/a/b", "bytes": 200 * GIB}
    assert dry_run.plan_of(resolve(TYPED, CPU))["disk_cache"] is None
    out = Console(file=io.StringIO(), width=200)
    dry_run.show(config, out)
    assert "disk cache: 200.0 GiB in /a/b" in out.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("200GiB", "takes a folder and a size, like /var/cache/kv:200GiB; not '200GiB'"),
        (":200GiB", "takes a folder and a size"),
        ("/var/cache/kv", "takes a folder and a size"),
        ("/var/cache/kv:", "takes a size like 64GiB"),
        ("/var/cache/kv:200G", "takes a size like 64GiB"),
        ("/var/cache/kv:200", "has no room for KV blocks: without a unit"),
        ("/var/cache/kv:0", "has no room for KV blocks"),
        ("", "takes a folder and a size"),
    ],
)
def test_what_is_no_folder_and_size_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(replace(TYPED, disk_cache=text), CPU)
    assert refused.value.message.startswith("--disk-cache")
    assert says in refused.value.message


def test_simulated_engines_have_nothing_for_a_disk() -> None:
    with pytest.raises(UsageError, match="--disk-cache needs real engines"):
        resolve(replace(TYPED, engine="mock", disk_cache="/x:9GiB"), CPU)


def test_a_disk_that_is_no_larger_than_the_memory_gives_a_warning() -> None:
    config = resolve(replace(TYPED, disk_cache="/x:4GiB"), CPU)
    assert ["4.0 GiB helps little" in one for one in warnings(config, CPU)] == [True]


def test_the_folder_must_take_files_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = replace(TYPED, disk_cache=f"{tmp_path}:1MiB")
    monkeypatch.setattr(disk_folder, "in_memory", lambda _: False)
    disk_folder.check(typed)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder, says in (("missing", "no such file"), ("file", "not a directory")):
        with pytest.raises(UsageError, match=f"{folder} cannot have files: {says}"):
            disk_folder.check(replace(typed, disk_cache=f"{tmp_path}/{folder}:1MiB"))
    with pytest.raises(UsageError, match="is more than the whole disk"):
        disk_folder.check(replace(typed, disk_cache=f"{tmp_path}:1000000TiB"))
    monkeypatch.undo()
    if Path("/dev/shm").is_dir():
        with pytest.raises(UsageError, match="/dev/shm is in memory"):
            disk_folder.check(replace(typed, disk_cache="/dev/shm:1MiB"))


def test_a_disk_that_has_less_room_gives_a_warning(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    for size, count in ((MIB, 0), (2 * free, 1)):
        cache = HostCacheConfig(GIB, disk=DiskCacheConfig(str(tmp_path), size))
        assert len(disk_folder.warnings(cache)) == count
    assert disk_folder.warnings(None) == disk_folder.warnings(HostCacheConfig(GIB)) == []


def test_without_unnamed_files_a_file_loses_its_name_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS."""
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, mode)

    monkeypatch.setattr(unnamed_file.os, "open", refuse)
    open_before = open_files()
    made = unnamed_file.open_unnamed(str(tmp_path), direct=False)
    assert open_files() == open_before + 1
    assert os.fstat(made).st_nlink == 0
    assert os.pwrite(made, b"x", 0) == 1
    os.close(made)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "stays"), [(errno.EINVAL, False), (errno.ENOSPC, True)])
def test_the_page_cache_is_used_where_direct_writes_fail_but_not_where_the_disk_is_full(
    error: int,
    stays: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    real = os.open
    monkeypatch.setattr(unnamed_file.os, "pwrite", fail)
    monkeypatch.setattr(
        unnamed_file.os,
        "open",
        lambda path, flags, mode=0o777: real(path, flags & ~os.O_DIRECT, mode),
    )
    open_before = open_files()
    made, direct = unnamed_file.open_best(str(tmp_path), direct=True)
    assert open_files() == open_before + 1
    os.close(made)
    assert direct is stays


def test_the_page_cache_is_used_where_files_cannot_be_opened_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, mode)

    monkeypatch.setattr(unnamed_file.os, "open", refuse)
    made, direct = unnamed_file.open_best(str(tmp_path), direct=True)
    os.close(made)
    assert not direct
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_tmpfs_is_not_in_memory() -> None:
    assert not unnamed_file.in_memory("/proc"), "though others are mounted"
    assert not unnamed_file.in_memory("/missing")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
