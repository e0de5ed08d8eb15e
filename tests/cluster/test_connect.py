"""A cluster that does not answer keeps nobody waiting."""

from __future__ import annotations

import subprocess
import sys

from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.lifecycle import Fatal, Phase, PhaseChange

HANGS = """
import socket, sys, time
from dynamo_cli.cluster import connect, process
from dynamo_cli.cluster_config import ClusterConfig
from dynamo_cli.topology import CLUSTER
connect.PATIENCE_S = 0.2
process.connect = lambda address: time.sleep(60)
process.main(CLUSTER, ClusterConfig("127.0.0.1:1", ()), socket.socket(fileno=int(sys.argv[1])))
"""


def test_the_process_that_speaks_with_ray_ends_when_no_cluster_answers() -> None:
    control, theirs = Control.pair()
    number = str(theirs.fileno())
    command = [sys.executable, "-c", HANGS, number]
    with theirs:
        ended = subprocess.run(command, pass_fds=[theirs.fileno()], timeout=50, check=False)
    assert ended.returncode == 1
    begins, why = (message for message, _ in control.receive())
    control.close()
    assert begins == PhaseChange(Phase.STARTING)
    assert isinstance(why, Fatal)
    assert why.error == "ResourceError"
    assert "no Ray cluster answers at 127.0.0.1:1 within" in why.message
