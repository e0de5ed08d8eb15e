"""Where the lines of a run go: standard error, and with ``--log-file`` a file too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from dynamo_cli.cli.forms import JSON, file_form, form_of
from dynamo_cli.cli.service_view import ServiceView
from dynamo_cli.cli.views import NullView, PlainView, Views, log_file, outlet
from dynamo_cli.errors import DynamoError, UsageError
from dynamo_cli.host import oserrors, service_manager
from dynamo_cli.plan.log_file import FLAG, limit_bytes
from dynamo_cli.plan.typed import LOG_FORMATS, Typed
from dynamo_cli.supervisor.view import View


class OutputViews(NamedTuple):
    """Views for the lines of a run.

    Attributes:
        plain: writes to standard error.
        others: views that show everything besides: the log file, and systemd.
        file: writes to the log file; None if there is none.
        as_json: whether a program reads standard error, as JSON lines.
    """

    plain: PlainView
    others: tuple[View, ...]
    file: PlainView | None
    as_json: bool

    def beside_others(self, view: View) -> View:
        """A view that shows everything in `view` and in the others."""
        return Views(view, *self.others) if self.others else view

    def failed(self, error: DynamoError) -> int:
        """Report the failure that ends the run, where its caller does not; returns the exit code.

        Raises:
            DynamoError: that failure, if its caller is to write it to standard error.
        """
        if self.file is not None:
            self.file.notice("ERROR", error.message)
        if not self.as_json:
            raise error
        # A program that reads JSON lines cannot read a plain one.
        self.plain.notice("ERROR", error.message)
        return error.exit_code


@contextmanager
def outputs(typed: Typed, *, dashboard: bool, errors_only: bool) -> Iterator[OutputViews]:
    """Open the outputs of a run, and close them afterwards.

    Args:
        dashboard: whether the terminal shows the dashboard; what follows it there is plain.
        errors_only: whether standard error gets errors only.

    Raises:
        UsageError: the log file cannot be written.
    """
    log_format = LOG_FORMATS[0] if dashboard else typed.log_format
    form = form_of(log_format, sys.stderr)
    with ExitStack() as closing:
        file = _file(typed, closing)
        out = outlet(sys.stderr, form)
        closing.callback(out.close)
        plain = NullView(out, form) if errors_only else PlainView(out, typed.log_level, form)
        manager = service_manager.found()
        others = [file, ServiceView(manager) if manager is not None else None]
        yield OutputViews(plain, tuple(filter(None, others)), file, log_format == JSON)


def _file(typed: Typed, closing: ExitStack) -> PlainView | None:
    if typed.log_file is None:
        return None
    form = file_form(typed.log_format)
    try:
        out = log_file(typed.log_file, form, limit_bytes(typed))
    except OSError as error:
        why = oserrors.reason(error)
        raise UsageError(f"{FLAG} {typed.log_file} cannot be written: {why}.") from error
    closing.callback(out.close)
    return PlainView(out, typed.log_level, form)
