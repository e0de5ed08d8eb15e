"""The configuration of a run on several machines: nodes, the relays between them, and outposts."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_BEAT_S = 0.5
DEFAULT_LOST_S = 3.0
DEFAULT_HEADLESS_S = 4.0
DEFAULT_FROZEN_S = 30.0
DEFAULT_JOIN_S = 60.0


@dataclass(frozen=True, slots=True)
class ClusterTimeouts:
    """How long the head and the outposts wait for each other.

    Attributes:
        beat_s: seconds between two heartbeats from the head to an outpost, which answers each.
        lost_s: a node whose outpost has not answered for so long is lost, seconds.
        headless_s: an outpost that has not heard the head for so long, and has no connection to it,
            ends itself, seconds.
        frozen_s: the same for one that has a connection, since the head is only very busy then,
            seconds.
        join_s: how long an outpost may take from its start to its first answer, seconds.
    """

    beat_s: float = DEFAULT_BEAT_S
    lost_s: float = DEFAULT_LOST_S
    headless_s: float = DEFAULT_HEADLESS_S
    frozen_s: float = DEFAULT_FROZEN_S
    join_s: float = DEFAULT_JOIN_S


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster on which engines run.

    Attributes:
        name: what people see.
        ray_id: its id in the cluster.
        address: address by which other machines reach it.
        cores: processor cores that the cluster counts there.
        gpus: number of GPUs that are given to this run there.
        memory_bytes: main memory that the cluster counts there; 0 if it does not say.
    """

    name: str
    ray_id: str
    address: str
    cores: int = 1
    gpus: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Which node runs what.

    Attributes:
        address: address of the cluster, ``HOST:PORT``.
        head: the head's own address, to which the nodes connect.
        nodes: the machines with engines.
        workers, prefill_workers: for each process the position of its node in `nodes`.
        offered: machines that have joined the cluster since, and may be added to `nodes`.
    """

    address: str
    head: str
    nodes: tuple[Node, ...]
    workers: tuple[int, ...]
    prefill_workers: tuple[int, ...] = ()
    timeouts: ClusterTimeouts = ClusterTimeouts()
    offered: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """Configuration of one end of a relay. Keys are those of CURVE, in Z85.

    Attributes:
        host: address at which the head listens, or to which a node connects.
        port: its port; 0 lets the head choose a free one.
        public, secret: the key pair of this end.
        other: the public key of the other end, the only one that may connect.
        listens: whether this is the head's end.
    """

    host: str
    port: int
    public: str
    secret: str
    other: str
    listens: bool


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Configuration of the process that speaks with Ray.

    Attributes:
        address: address of the cluster, ``HOST:PORT``.
        nodes: the machines of the plan; `PlaceOutpost` may bring others later.
    """

    address: str
    nodes: tuple[Node, ...]


AUTO_ADDRESS = "auto"
"""Stands for the cluster that this machine belongs to."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a cluster has.

    Attributes:
        address: its address, ``HOST:PORT``.
        head: the address of this machine in the cluster.
        nodes: its living nodes by name, with the GPUs that are free.
    """

    address: str
    head: str
    nodes: tuple[Node, ...]
