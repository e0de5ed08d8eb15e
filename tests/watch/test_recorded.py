"""Alarms and remarks on recorded runs of real servers: what must be raised, and what must not.

`tests.watch.record` has made the recordings.
"""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.watch.judge import CLEAR_S, Judge
from dynamo_cli.watch.rules import RULES
from dynamo_cli.watch.schema import Snapshot

FOLDER = Path(__file__).parent / "recorded"
RECORDED = tuple(sorted(file.name.partition(".")[0] for file in FOLDER.glob("*.json.gz")))
OURS = {rule.kind for rule in RULES}

_snapshots = msgspec.json.Decoder(list[Snapshot]).decode


@cache
def snapshots(name: str) -> list[Snapshot]:
    """The snapshots of a recording, without what was raised when it was made."""
    seen = _snapshots(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return [msgspec.structs.replace(one, alarms=[], odd=[]) for one in seen]


def judged(seen: list[Snapshot]) -> list[Snapshot]:
    judge = Judge()
    return [judge.judged(one) for one in seen]


def kinds(seen: list[Snapshot]) -> set[str]:
    return {alarm.kind for one in judged(seen) for alarm in one.alarms}


def changed(seen: list[Snapshot], part: str, **fields: Any) -> list[Snapshot]:
    """The recording as if a part of each snapshot had had other figures."""
    return [
        msgspec.structs.replace(
            one, **{part: msgspec.structs.replace(getattr(one, part), **fields)}
        )
        for one in seen
    ]


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("calm", set[str]()),
        ("bursts", set[str]()),
        ("slow", set[str]()),
        ("overload", {"saturated", "growing queue", "no first token", "kv full"}),
        (
            "contention",
            {"saturated", "growing queue", "no first token", "kv full", "busy cores"},
        ),
        ("deaths", {"errors"}),
        ("refusals", {"refusing"}),
        ("early", {"refusing"}),
        ("tokenizer", {"saturated", "no first token", "busy process"}),
    ],
)
def test_a_run_raises_what_it_should(name: str, raised: set[str]) -> None:
    assert kinds(snapshots(name)) == raised


def test_clients_that_were_early_are_no_alarm_any_more_when_the_server_is_ready() -> None:
    seen = judged(snapshots("early"))
    raised = [alarm for one in seen for alarm in one.alarms]
    assert all("before the server was ready" in alarm.advice for alarm in raised)
    ready_s = next(one.uptime_s for one in seen if one.serving)
    later = [one for one in seen if one.uptime_s > ready_s + CLEAR_S]
    assert len(later) > 20
    assert all(one.recent_errors.refused_kinds for one in later)
    assert not any(one.alarms for one in later)


def test_a_full_host_and_a_full_disk_are_told() -> None:
    calm, mib = snapshots("calm"), 1 << 20
    short = {"memory_total_bytes": 32 << 30, "memory_available_bytes": 300 * mib}
    assert kinds(changed(calm, "host", **short)) == {"host memory"}
    plenty = {"memory_total_bytes": 512 << 30, "memory_available_bytes": 3 << 30}
    assert kinds(changed(calm, "host", **plenty)) == set()
    full = {"record_total_bytes": 100 << 30, "record_free_bytes": 100 * mib}
    assert kinds(changed(calm, "host", **full)) == {"record"}
    room = {"record_total_bytes": 100 << 30, "record_free_bytes": 2 << 30}
    assert kinds(changed(calm, "host", **room)) == set()
    lost = [*calm[:10], *changed(calm[10:], "host", unrecorded={"write_failed": 3})]
    assert kinds(lost) == {"record"}


def test_lines_of_the_log_that_are_lost_are_told() -> None:
    calm = snapshots("calm")
    old = [msgspec.structs.replace(one, unwritten_log_lines=7) for one in calm]
    assert kinds(old) == set()
    lost = [msgspec.structs.replace(one, unwritten_log_lines=9) for one in old[10:]]
    assert kinds([*old[:10], *lost]) == {"log"}


def test_each_rule_is_raised_by_a_recording_and_says_what_to_do() -> None:
    alarms = [alarm for name in RECORDED for one in judged(snapshots(name)) for alarm in one.alarms]
    assert {alarm.kind for alarm in alarms} == OURS - {"host memory", "record", "log"}
    assert all(alarm.text and alarm.advice.endswith(".") for alarm in alarms)


def test_the_page_has_each_rule_and_how_long_it_must_hold() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    told = dict(re.findall(r"^\| `([a-z ]+)` \|[^|]*\| (\d+) s \|", page, re.MULTILINE))
    assert told == {rule.kind: f"{rule.hold_s:.0f}" for rule in RULES}


def test_an_alarm_waits_stays_and_goes() -> None:
    seen = judged(snapshots("overload"))
    at_s = [one.uptime_s for one in seen if any(a.kind == "saturated" for a in one.alarms)]
    began_s = next(
        one.uptime_s for one in seen if one.queues.waiting and one.queues.oldest_unstarted_s >= 2
    )
    assert 5 <= at_s[0] - began_s < 8
    idle, last = snapshots("calm")[-1], seen[-1]
    judge = Judge()
    for one in snapshots("overload"):
        judge.judged(one)
    after = [
        {alarm.kind for alarm in judge.judged(quiet).alarms}
        for second in range(1, 8)
        for quiet in [msgspec.structs.replace(idle, uptime_s=last.uptime_s + second)]
    ]
    assert "saturated" in after[0]
    assert "saturated" not in after[-1]


def test_an_alarm_needs_looks_and_not_only_time() -> None:
    far = snapshots("overload")[::8]
    assert kinds(far) == set(), "nobody looked between two of these, so nothing lasted"


def test_saturation_says_where_requests_wait_for_how_long_and_what_helps() -> None:
    texts = [
        alarm
        for one in judged(snapshots("overload"))
        for alarm in one.alarms
        if alarm.kind == "saturated"
    ]
    last = snapshots("overload")[-1].queues
    assert texts[-1].text.startswith(f"{last.waiting} requests wait (")
    assert f"for {last.oldest_unstarted_s:.0f} s" in texts[-1].text
    assert any("more each second" in alarm.text for alarm in texts)
    assert "--workers" in texts[-1].advice


@pytest.mark.parametrize("name", [name for name in RECORDED if name not in ("slow", "deaths")])
def test_no_healthy_worker_is_the_odd_one(name: str) -> None:
    assert {remark for one in judged(snapshots(name)) for remark in one.odd} == set()


def test_a_slow_worker_is_the_odd_one() -> None:
    remarks = {remark for one in judged(snapshots("slow")) for remark in one.odd}
    assert remarks
    assert all(remark.startswith("worker 2: ") for remark in remarks)


def test_recordings_are_small_and_name_no_machine() -> None:
    for file in FOLDER.glob("*.json.gz"):
        assert file.stat().st_size < 40_000
        assert b"/tmp" not in gzip.decompress(file.read_bytes()), file
        assert isinstance(json.loads(gzip.decompress(file.read_bytes())), list)
