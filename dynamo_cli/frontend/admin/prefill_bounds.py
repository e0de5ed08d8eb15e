"""`/dynamo/placement`: shows and changes the bounds that decide where prompts are prefilled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from dynamo_cli.config import PlacementRule
from dynamo_cli.errors import InvalidRequest, NotFound
from dynamo_cli.frontend.http.admission import check_body, told

BOUNDS = ("max_local_prefill_length", "max_prefill_queue_size")


class Placement:
    """Holds the current rule.

    Args:
        rule: the rule at the start; None if there are no prefill workers.
        announce: sends a new rule to every decode worker and to the supervisor.
    """

    def __init__(
        self, rule: PlacementRule | None, announce: Callable[[PlacementRule], None]
    ) -> None:
        self._rule = rule
        self._announce = announce

    def show(self) -> dict[str, Any]:
        """The current rule. Raises `NotFound` if there are no prefill workers."""
        return asdict(self._known())

    def change(self, body: bytes) -> dict[str, Any]:
        """Change bounds; if one is invalid, none is changed.

        Args:
            body: a JSON object with new values of `BOUNDS`.

        Returns:
            the new rule, as `show`.

        Raises:
            InvalidRequest: a bound is unknown or its value is invalid.
            NotFound: there are no prefill workers.
        """
        rule, wanted = self._known(), check_body(body)
        for name, value in wanted.items():
            if name not in BOUNDS:
                raise InvalidRequest(
                    f"unknown bound {name!a}; the bounds are {' and '.join(BOUNDS)}."
                )
            unbounded = value is None and name == "max_prefill_queue_size"
            if not unbounded and (
                not isinstance(value, int) or isinstance(value, bool) or value < 0
            ):
                raise InvalidRequest(
                    f"{name} must be a whole number, 0 or more; it is {told(value)}.", param=name
                )
        # Without `conditional` the bounds would have no effect.
        self._rule = replace(rule, conditional=True, **wanted) if wanted else rule
        self._announce(self._rule)
        return self.show()

    def _known(self) -> PlacementRule:
        if self._rule is None:
            raise NotFound("there are no prefill workers; start with --prefill-workers.")
        return self._rule
