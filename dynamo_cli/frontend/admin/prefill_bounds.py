"""`/dynamo/placement`: the bounds by which decode workers send prefills away, at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from dynamo_cli.config import PlacementRule
from dynamo_cli.errors import InvalidRequest, NotFound
from dynamo_cli.frontend.http.admission import check_body

BOUNDS = ("max_local_prefill_length", "max_prefill_queue_size")


class Placement:
    """The rule that holds now.

    Args:
        rule: at the start; None where there are no prefill workers.
        announce: lets every decode worker know a new one.
    """

    def __init__(
        self, rule: PlacementRule | None, announce: Callable[[PlacementRule], None]
    ) -> None:
        self._rule = rule
        self._announce = announce

    def show(self) -> dict[str, Any]:
        """Raises `NotFound` where there is none."""
        return asdict(self._known())

    def change(self, body: bytes) -> dict[str, Any]:
        """Take new bounds, all at once or none.

        Raises:
            InvalidRequest: they cannot be bounds.
            NotFound: there are no prefill workers.
        """
        rule, wanted = self._known(), check_body(body)
        for name, value in wanted.items():
            if name not in BOUNDS:
                raise InvalidRequest(f"{name!a} cannot be set; there is {' and '.join(BOUNDS)}.")
            unbounded = value is None and name == "max_prefill_queue_size"
            if not unbounded and (
                not isinstance(value, int) or isinstance(value, bool) or value < 0
            ):
                raise InvalidRequest(f"{name} is a whole number from 0 on.", param=name)
        # Who sets a bound wants it to count.
        self._rule = replace(rule, conditional=True, **wanted) if wanted else rule
        self._announce(self._rule)
        return self.show()

    def _known(self) -> PlacementRule:
        if self._rule is None:
            raise NotFound("there are no prefill workers; start with --prefill-workers.")
        return self._rule
