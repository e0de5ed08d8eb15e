"""What ``bench`` and ``replay`` have in common in how they report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_cli.errors import UsageError

if TYPE_CHECKING:
    from dynamo_cli.lab.report import Slo


def refuse_two_forms(*, as_json: bool, as_csv: bool) -> None:
    """Raises `UsageError` when a report is to be JSON and CSV at once."""
    if as_json and as_csv:
        raise UsageError("--json and --csv are two ways to say the same; take one.")


def slo_of(ttft_ms: float | None, itl_ms: float | None) -> Slo:
    """The service level that counts as goodput; None sets no bound."""
    from dynamo_cli.lab.report import MS, Slo  # noqa: PLC0415 - the help needs none of it

    return Slo(*(None if bound is None else bound / MS for bound in (ttft_ms, itl_ms)))
