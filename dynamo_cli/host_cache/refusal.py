"""Says why an engine cannot use the host cache. Pure."""

from __future__ import annotations

from typing import NamedTuple

from dynamo_cli.units import MIB


class Slots(NamedTuple):
    """Size and layout of the slots of the memory.

    Attributes:
        size_bytes: size of the memory.
        slot_bytes: size of a slot; 0 until the first engine has said it.
        layout: model, data type and order of what is in a block, as the first engine describes it.
        first: name of the first engine.
    """

    size_bytes: int
    slot_bytes: int
    layout: str
    first: str

    def refusal(self, slot_bytes: int, layout: str) -> str:
        """Why an engine with such blocks cannot use the slots, in one sentence; empty if it can."""
        if not 0 < slot_bytes <= self.size_bytes:
            return (
                f"one KV block takes {slot_bytes / MIB:.3g} MiB, and the host cache has "
                f"{self.size_bytes / MIB:.3g} MiB; give it more with --host-cache."
            )
        if self.slot_bytes and slot_bytes != self.slot_bytes:
            return (
                f"its KV blocks take {slot_bytes} bytes, and those of {self.first} "
                f"{self.slot_bytes}; engines share a host cache only if they are configured alike."
            )
        if self.slot_bytes and layout != self.layout:
            return (
                f"its KV blocks are laid out as {layout}, and those of {self.first} as "
                f"{self.layout}; engines share a host cache only if they are configured alike."
            )
        return ""
