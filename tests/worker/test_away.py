"""Requests that are being prefilled elsewhere: each leaves in exactly one way."""

from __future__ import annotations

from collections import Counter

from dynamo_cli.worker.away import LATE, LATE_NS, RemotePrefills


def away(*names: str) -> RemotePrefills[str]:
    remote: RemotePrefills[str] = RemotePrefills()
    for name in names:
        remote.send(name, f"family {name}", name.upper(), deadline_ns=1000)
    return remote


def test_a_prefill_ends_once() -> None:
    remote = away("a", "b")
    assert (remote.done("a"), remote.done("a"), remote.failed("a", "x")) == ("A", None, None)
    assert (remote.failed("b", "deadline"), remote.done("b")) == ("B", None)
    assert (len(remote), remote.fallbacks) == (0, Counter({"deadline": 1}))


def test_without_the_queue_all_come_back() -> None:
    remote = away("a", "b")
    assert remote.all_failed("queue_gone") == ["A", "B"]
    assert remote.fallbacks == Counter({"queue_gone": 2})


def test_nobody_waits_for_ever() -> None:
    remote = away("a")
    assert remote.late(1000 + LATE_NS) == []
    assert remote.late(1001 + LATE_NS) == ["A"]
    assert (remote.late(1 << 60), remote.fallbacks) == ([], Counter({LATE: 1}))


def test_siblings_wait_for_the_first_token_of_the_first() -> None:
    remote = away("a")
    assert remote.join("a1", "family a", "A1")
    assert remote.join("a2", "family a", "A2")
    assert not remote.join("b1", "family b", "B1")
    assert remote.done("a") == "A"
    assert remote.join("a3", "family a", "A3")  # it has no token yet
    assert not remote.abort("a2")
    assert remote.started("a") == ["A1", "A3"]
    assert remote.started("a") == []
    assert not remote.join("a4", "family a", "A4")


def test_an_abort_says_whether_there_is_a_job_to_cancel() -> None:
    remote = away("a")
    remote.join("a1", "family a", "A1")
    assert remote.abort("a")
    assert not remote.abort("a")
    assert remote.started("a") == ["A1"]
    assert len(remote) == 0


def test_requests_of_a_client_are_found() -> None:
    remote = away("a", "b")
    remote.join("a1", "family a", "A1")
    assert remote.of(lambda request: request.startswith("A")) == ["a", "a1"]
