"""Keeps text of requests out of the log.

vLLM's serving classes, templates and parsers of answers say in their log what they stumble over,
and say much of what they do at level DEBUG. Which of their lines have a prompt or an answer in
them changes with every release; so none of what they say while they work on a request is trusted.
"""

from __future__ import annotations

import logging
import threading
import traceback

from dynamo_cli.engines.vllm.front.trace import current_trace

WITHHELD = "(withheld: it may be text of a request; --log-prompts shows it)"
OURS = "dynamo_cli."


class Discretion(logging.Filter):
    """Of lines that libraries write on behalf of a request, lets pass what cannot be its text.

    Of a warning that is the constant part and where it comes from; of a failure its type and
    place. Lines below WARNING do not pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not _may_be_about_a_request():
            return True
        if not record.name.startswith(OURS):
            if record.levelno < logging.WARNING:
                return False
            constant = f"{record.msg} " if record.args else ""
            record.msg = f"{record.name}:{record.lineno}: {constant}{WITHHELD}"
            record.args = None
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = "".join(traceback.format_tb(error.__traceback__))
            record.exc_text = f"{frames}{type(error).__name__}: {WITHHELD}"
            record.exc_info = None
        return True


def _may_be_about_a_request() -> bool:
    """Threads work on long ones, and nobody tells them for whom."""
    main = threading.current_thread() is threading.main_thread()
    return not main or current_trace.get(None) is not None


def install() -> None:
    """In the place where all lines of this process pass."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Discretion())
