"""Keeps text of requests out of the log.

vLLM's serving classes, templates and output parsers log inputs that they cannot handle, and much
else at level DEBUG. Which lines contain a prompt or an answer changes with every release. So no
line that is logged while they work on a request is trusted.
"""

from __future__ import annotations

import logging
import re
import threading
import traceback

from dynamo_cli.engines.vllm.front.trace import current_trace

WITHHELD = "(withheld: it may be text of a request; --log-prompts shows it)"
OURS = "dynamo_cli."

_CONVERSION = re.compile(r"%[-+ #0-9.*]*[a-zA-Z]")
"""A conversion of %-formatting, such as ``%s``."""


class Discretion(logging.Filter):
    """Removes from lines that libraries log for a request whatever could be its text.

    What is left of a warning is its constant part and its place in the code; of an exception, its
    type and traceback. Lines below WARNING are dropped.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Strip a record; False drops it."""
        if not _may_be_about_a_request():
            return True
        if not record.name.startswith(OURS):
            if record.levelno < logging.WARNING:
                return False
            constant = f"{_CONVERSION.sub('…', str(record.msg))} " if record.args else ""
            record.msg = f"{record.name}:{record.lineno}: {constant}{WITHHELD}"
            record.args = None
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = "".join(traceback.format_tb(error.__traceback__))
            record.exc_text = f"{frames}{type(error).__name__}: {WITHHELD}"
            record.exc_info = None
        return True


def _may_be_about_a_request() -> bool:
    """Whether the line may be about a request: it comes from a request's task, or from a thread."""
    main = threading.current_thread() is threading.main_thread()
    return not main or current_trace.get(None) is not None


def install() -> None:
    """Add the filter to the root handlers, which all lines of this process pass."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Discretion())
