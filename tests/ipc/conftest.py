"""What tests of control sockets share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from tests.ipc.support import Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The supervisor's end and the child's."""
    ours, theirs = Control.pair()
    child = Control(theirs, ToChild)
    yield ours, child
    ours.close()
    child.close()
