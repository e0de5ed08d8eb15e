"""One function of the tests, in a process that has imported vLLM: the tests' own never does.

    python -m tests.support.call MODULE FUNCTION ARGUMENTS

`ARGUMENTS` is a list as JSON. In a test: ``call(function, "text", 3)``.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from tests.support.driver import result_of, tell


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns there; like its arguments, something that JSON can carry."""
    words = (function.__module__, function.__qualname__, json.dumps(arguments))
    return result_of(__name__, *words)


if __name__ == "__main__":
    function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    tell(function(*json.loads(sys.argv[3])))
