"""The state of the simulated engine: blocks, chunked prefill, preemption and times."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.engines.mock.profile import PS, Profile, StepTimes, built_in, load
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.errors import UsageError

PROFILE = Profile(
    name="test",
    source="made up",
    step_s=0.010,
    prefill_token_s=0.001,
    decode_request_s=0.002,
    decode_context_s=0.0001,
    block_size=4,
    num_blocks=11,
    max_num_seqs=4,
    max_num_batched_tokens=8,
    max_model_len=100,
)
MS = PS // 1000


def engine(**changes: object) -> SimEngine:
    return SimEngine(msgspec.structs.replace(PROFILE, **changes))


def request(name: str, prompt: int, output: int, start: int = 0) -> SimRequest:
    """A request; its prompt's blocks have hashes start, start + 1 ..., output has its name."""
    hashes = list(range(start, start + prompt // PROFILE.block_size))
    return SimRequest(name, prompt, output, hashes, lambda _, block: hash((name, block)))


def run(sim: SimEngine) -> list[str]:
    finished = []
    while sim.has_work():
        finished += [one.request_id for one in sim.step().finished]
    return finished


def test_long_prompts_are_computed_in_chunks_beside_what_decodes() -> None:
    sim = engine()
    sim.add(request("short", 3, 4))
    sim.add(request("long", 12, 1, start=50))
    first = sim.step()  # 3 tokens of one and 5 of the other
    assert [one.request_id for one in first.joined] == ["short"]
    assert first.duration_ps == 18 * MS
    second = sim.step()  # one token decoded with 3 before it, 7 computed
    assert (second.decoded, second.duration_ps) == (1, (10 + 2 + 7) * MS + 3 * MS // 10)
    assert [one.request_id for one in second.finished] == ["long"]
    assert run(sim) == ["short"]
    assert sim.blocks.free == sim.blocks.usable


def test_steps_are_shorter_while_an_answer_streams() -> None:
    sim = engine(prefill_chunk_tokens=2)
    sim.add(request("short", 3, 6))
    sim.add(request("long", 13, 1, start=50))
    assert sim.step().prefilled == 8, "nobody streams yet"
    assert sim.step().prefilled == 7, "the answer was never delayed"
    sim.add(request("later", 5, 1, start=90))
    assert [sim.step().prefilled for _ in range(2)] == [2, 2]
    assert sorted(run(sim)) == ["later", "short"]


def test_a_prefix_is_found_again_but_for_its_last_token() -> None:
    sim = engine()
    sim.add(request("one", 8, 1))
    run(sim)
    again, longer = request("again", 8, 1), request("longer", 9, 1)
    assert (sim.cached_tokens(again), sim.cached_tokens(longer)) == (4, 8)
    sim.add(again)
    sim.add(longer)
    run(sim)
    assert (again.cached_tokens, longer.cached_tokens) == (4, 8)


def test_requests_find_what_others_compute_in_the_same_step() -> None:
    sim = engine()
    sim.add(request("one", 5, 1))
    sim.add(twin := request("twin", 5, 1))
    sim.step()
    assert twin.cached_tokens == 4


def test_the_youngest_is_preempted_when_blocks_run_out_and_begins_again() -> None:
    sim = engine(num_blocks=6)
    old, young = request("old", 7, 9), request("young", 7, 6, start=50)
    sim.add(old)
    sim.add(young)
    preempted = []
    while sim.has_work():
        preempted += sim.step().preempted
    assert preempted == [young]
    assert (old.preemptions, young.preemptions, sim.totals.preemptions) == (0, 1, 1)
    assert (old.produced, young.produced) == (9, 6)
    assert sim.totals.output_tokens == 15
    assert sim.blocks.free == sim.blocks.usable


def test_urgent_requests_begin_first_and_the_least_urgent_goes() -> None:
    sim = engine(num_blocks=6)
    running, urgent = request("running", 7, 9), request("urgent", 7, 6, start=50)
    running.priority, urgent.priority = 2, -1
    sim.add(running)
    sim.step()
    sim.add(request("later", 7, 1, start=90))
    sim.add(urgent)
    assert [one.request_id for one in sim.waiting] == ["urgent", "later"]
    preempted: list[str] = []
    while sim.has_work():
        preempted += [one.request_id for one in sim.step().preempted]
    assert preempted == ["running"]
    assert sim.totals.output_tokens == 16


def test_an_abort_frees_everything() -> None:
    sim = engine()
    for name in ("running", "also", "waiting"):
        sim.add(request(name, 20, 5, start=hash(name)))
    sim.step()
    assert all(sim.abort(name) for name in ("waiting", "running", "also"))
    assert sim.abort("running") is None
    assert not sim.has_work()
    assert sim.blocks.free == sim.blocks.usable


def test_what_can_never_run_is_known_before() -> None:
    sim = engine()
    assert sim.fits(request("all", 40, 1))
    assert not sim.fits(request("too many blocks", 40, 2))
    assert not engine(num_blocks=1000).fits(request("too long", 100, 1))


def test_a_reset_forgets_prefixes_of_what_does_not_run() -> None:
    sim = engine()
    sim.add(request("a", 8, 9))
    sim.step()
    assert not sim.reset_cache(running=False)
    assert sim.reset_cache(running=True)
    assert sim.blocks.all() == []
    assert run(sim) == ["a"]
    assert sim.totals.preemptions == 1


def test_quiet_steps_at_once_equal_steps_one_by_one() -> None:
    one, many = engine(block_size=16), engine(block_size=16)
    for sim in (one, many):
        sim.add(request("a", 2, 30))
        sim.step()
    quiet = many.quiet_steps(PS)
    assert quiet == 13  # the fourteenth fills the block
    alone_ps = sum(one.step().duration_ps for _ in range(quiet))
    assert many.steps_ps(quiet) == alone_ps
    assert many.quiet_steps(many.steps_ps(5)) == 5
    assert many.quiet_steps(many.steps_ps(5) + 1) == 6
    many.coast(quiet)
    assert many.totals == one.totals
    assert many.step() == one.step()


def test_an_external_prompt_takes_room_but_no_time() -> None:
    sim = engine()
    sim.add(moved := request("moved", 8, 1))
    moved.remote_tokens = 7
    step = sim.step()
    assert step.duration_ps == 11 * MS
    assert moved.cached_tokens == 0
    assert sim.blocks.all() == [0, 1]


@pytest.mark.parametrize("name", built_in())
def test_built_in_profiles_make_sense(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert len(profile.source) > 40
    speed = StepTimes.of(profile)
    assert speed.prefill_ps(1000, 0) + speed.prefill_ps(1000, 1000) == speed.prefill_ps(2000, 0)
    assert speed.transfer_ps(0) == 0 < speed.transfer_ps(1)


@pytest.mark.parametrize("text", ["{", '{"name": "x"}', '{"nam": "x"}'])
def test_profiles_that_make_no_sense_are_refused(text: str, tmp_path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="not valid"):
        load(str(path))
    with pytest.raises(UsageError, match=r"neither a file nor one of .*gpu-8b"):
        load("none")


def test_a_profile_with_impossible_figures_is_refused(tmp_path) -> None:
    path = tmp_path / "profile.json"
    for change in ({"step_s": 0.0}, {"prefill_token_s": -1.0}, {"max_num_batched_tokens": 1}):
        path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(PROFILE), **change}))
        load.cache_clear()
        with pytest.raises(UsageError, match="not valid"):
            load(str(path))
