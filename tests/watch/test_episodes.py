"""The lines of the log about alarms: one when an alarm is raised, one when it is over."""

from __future__ import annotations

from dynamo_cli.watch.episodes import AWAY_S, Episodes
from dynamo_cli.watch.schema import AlarmView
from tests.dashboard.made import snapshot

FULL = AlarmView("kv full", "the KV cache of worker 0 is full", "add workers.")
LOST = AlarmView("gpu lost", "GPU 0 cannot be read", "reset it.", "0")
OTHER = AlarmView("gpu lost", "GPU 1 cannot be read", "reset it.", "1")


def looked(episodes: Episodes, at_s: float, *alarms: AlarmView) -> list[str]:
    return episodes.news(snapshot(at_s=at_s, alarms=list(alarms)))


def test_an_alarm_is_told_once_with_what_to_do_and_once_when_it_is_over() -> None:
    episodes = Episodes()
    (begun,) = looked(episodes, 100, FULL)
    assert begun == "alarm (kv full): the KV cache of worker 0 is full; add workers."
    assert not looked(episodes, 101, FULL)
    changed = AlarmView("kv full", "the KV cache of workers 0, 1 is full", "add workers.")
    assert not looked(episodes, 112, changed), "another text of the same kind"
    assert not looked(episodes, 111 + AWAY_S)
    (over,) = looked(episodes, 112 + AWAY_S)
    assert over == "alarm is over (kv full): it lasted 12 s"
    assert not looked(episodes, 200)
    assert looked(episodes, 201, FULL) == [begun], "the next episode"


def test_an_alarm_that_comes_and_goes_is_one_episode() -> None:
    episodes = Episodes()
    told = [
        news
        for second in range(300)
        for news in looked(episodes, second, *([FULL] if second % 20 == 0 else ()))
    ]
    assert [one.partition(":")[0] for one in told] == ["alarm (kv full)"]


def test_alarms_of_several_kinds_and_gpus_are_told_one_by_one() -> None:
    episodes = Episodes()
    assert len(looked(episodes, 1, FULL, LOST)) == 2
    (other,) = looked(episodes, 2, FULL, OTHER, LOST)
    assert other == "alarm (gpu lost 1): GPU 1 cannot be read; reset it."
    (over,) = looked(episodes, 2 + AWAY_S, FULL, OTHER)
    assert over == "alarm is over (gpu lost 0): it lasted 1 s"
