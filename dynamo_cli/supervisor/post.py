"""What an outpost is started with, and what its node must have."""

from __future__ import annotations

import pickle
import platform
from dataclasses import dataclass

from dynamo_cli import __version__
from dynamo_cli.cluster_config import ClusterTimeouts, RelayConfig
from dynamo_cli.config import EngineConfig, HostCacheConfig
from dynamo_cli.engines.vllm import versions


@dataclass(frozen=True, slots=True)
class Versions:
    """The releases that must be the same on every node."""

    tool: str
    vllm: str
    python: str

    @staticmethod
    def here() -> Versions:
        """Those of this machine."""
        python = ".".join(platform.python_version_tuple()[:2])
        return Versions(__version__, versions.installed() or "none", python)

    def differs(self, head: Versions) -> str:
        """How they differ from those of the head, in words; empty if they do not."""
        pairs = (
            ("dynamo-llm", self.tool, head.tool),
            ("vLLM", self.vllm, head.vllm),
            ("Python", self.python, head.python),
        )
        return ", ".join(f"{what} {a} (the head has {b})" for what, a, b in pairs if a != b)


@dataclass(frozen=True, slots=True)
class Post:
    """What an outpost is started with.

    Attributes:
        node: name of its node.
        address: address of its node, by which other nodes reach its engines.
        relay: its end of the relay.
        engine: what its engines run; `path` is that of the head.
        forks: whether a zygote forks the engines; it imports vLLM.
        head: the releases of the head.
        worker_timeout_s: see `ServeConfig`.
        host_cache: memory that its engines share; None if there is none.
    """

    node: str
    address: str
    relay: RelayConfig
    engine: EngineConfig
    forks: bool
    head: Versions
    worker_timeout_s: float
    timeouts: ClusterTimeouts
    host_cache: HostCacheConfig | None = None

    def dump(self) -> bytes:
        """As bytes. They hold keys: whoever may submit jobs to the cluster can read them."""
        return pickle.dumps(self)

    @staticmethod
    def load(data: bytes) -> Post:
        """Read the bytes that `dump` has made."""
        post = pickle.loads(data)
        assert isinstance(post, Post)
        return post
