"""Options and checks for reports, which ``bench`` and ``replay`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from dynamo_cli.cli.declare import option
from dynamo_cli.errors import UsageError
from dynamo_cli.plan import limits

if TYPE_CHECKING:
    from dynamo_cli.lab.report import Slo

REPORT = "Report"
"""The panel of these options."""

SloTtft = Annotated[
    float | None,
    option(
        "--slo-ttft",
        panel=REPORT,
        min=0,
        most=limits.MAX_MILLISECONDS,
        metavar="MS",
        help="For goodput: longest time to first token.",
    ),
]
SloItl = Annotated[
    float | None,
    option(
        "--slo-itl",
        panel=REPORT,
        min=0,
        most=limits.MAX_MILLISECONDS,
        metavar="MS",
        help="For goodput: longest mean inter-token latency of a request.",
    ),
]
AsJson = Annotated[bool, option("--json", panel=REPORT, help="Print JSON instead of tables.")]
AsCsv = Annotated[bool, option("--csv", panel=REPORT, help="Print CSV instead of tables.")]


def refuse_two_forms(*, as_json: bool, as_csv: bool) -> None:
    """Raises `UsageError` when a report is to be JSON and CSV at once."""
    if as_json and as_csv:
        raise UsageError("choose one of --json and --csv.")


def slo_of(ttft_ms: float | None, itl_ms: float | None) -> Slo:
    """The service level that counts as goodput; None sets no bound."""
    from dynamo_cli.lab.report import MS, Slo  # noqa: PLC0415 - the help needs none of it

    return Slo(*(None if bound is None else bound / MS for bound in (ttft_ms, itl_ms)))
