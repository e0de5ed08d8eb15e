"""``python -m tests.mock.contract``: fails when messages of simulated engines are not vLLM's."""

from __future__ import annotations

from dataclasses import fields

from vllm import SamplingParams
from vllm.v1 import engine
from vllm.v1.metrics.stats import PrefillStats

from dynamo_cli.engines.mock import wire


def main() -> None:
    for ours, theirs in (
        (wire.CoreRequest, engine.EngineCoreRequest),
        (wire.Output, engine.EngineCoreOutput),
        (wire.CoreOutputs, engine.EngineCoreOutputs),
    ):
        names = ours.__struct_fields__
        assert theirs.__struct_fields__[: len(names)] == names, theirs
    assert set(wire.Sampling.__struct_fields__) <= set(SamplingParams.__struct_fields__)
    assert set(wire.CoreEvent.__struct_fields__) == set(engine.EngineCoreEvent.__struct_fields__)
    assert set(wire.PrefillStats.__struct_fields__) <= {one.name for one in fields(PrefillStats)}
    assert engine.FinishReason(wire.STOP).name == "STOP"
    assert engine.FinishReason(wire.LENGTH).name == "LENGTH"
    assert engine.EngineCoreEventType(wire.QUEUED).name == "QUEUED"
    assert engine.EngineCoreEventType(wire.SCHEDULED).name == "SCHEDULED"


if __name__ == "__main__":
    main()
