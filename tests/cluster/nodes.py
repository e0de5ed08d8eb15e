"""Ray nodes on this machine, in a process of their own: ``python -m tests.cluster.nodes NAME...``.

It writes its address, and then reads commands: ``add NAME``, ``kill NAME``. At the end of its input
it ends all nodes. Nothing listens at another address than 127.0.0.1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.server import alive, children_of, die_with_the_test, wait_until

NODE = {
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
    "num_cpus": 1,  # as many processes of Ray wait on each for work, which no test gives them
    "object_store_memory": 80 << 20,
}
LOOPBACK = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class Nodes:
    """Use as ``with Nodes("node-a", "node-b") as nodes``.

    Attributes:
        address: of the cluster.
        environment: variables with which programs find it.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def __enter__(self) -> Nodes:
        self._folder = tempfile.TemporaryDirectory(prefix="r-", dir="/tmp")
        self.environment = {**LOOPBACK, "RAY_TMPDIR": self._folder.name}
        self._log = Path(self._folder.name, "log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *self._names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | self.environment,
            preexec_fn=die_with_the_test,  # noqa: PLW1509 - no threads in the tests' process
        )
        self.address = self._read()
        assert self.address, Path(self._folder.name, "log").read_text()
        return self

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _ask(self, *words: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        return self._read()

    def add(self, name: str) -> None:
        """Start one more node."""
        assert self._ask("add", name) == name

    def kill(self, name: str) -> None:
        """kill -9 of its raylet."""
        assert self._ask("kill", name) == name

    def outposts(self) -> set[int]:
        """Pids of all that outposts have started on the nodes, and of themselves."""
        found = set()
        for pid in children_of(self._process.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"dynamo" in words.split(b"\0")[0] or b"dynamo_cli.outpost" in words:
                found.add(pid)
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        below = children_of(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in filter(alive, below):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, below)), 10, "the nodes have ended")
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()


def main() -> None:
    from ray.cluster_utils import Cluster

    first, *others = sys.argv[1:]
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "node_name": first})
    nodes = {name: cluster.add_node(**NODE, node_name=name) for name in others}
    print(cluster.address, flush=True)
    for line in sys.stdin:
        verb, name = line.split()
        if verb == "add":
            nodes[name] = cluster.add_node(**NODE, node_name=name)
        else:
            node = nodes.pop(name)
            cluster.worker_nodes.remove(node)
            node.kill_raylet(check_alive=False)
        print(name, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
