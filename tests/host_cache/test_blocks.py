"""Which block of the host cache is evicted next."""

from __future__ import annotations

from dynamo_cli.host_cache.blocks import LEAST_STALE, Block, TierBlocks


def prompt(blocks: TierBlocks, letters: str, *, named: bool = True) -> list[Block]:
    """Add and use the blocks of a prompt; the block "b" of "ab" has the key "ab"."""
    added = []
    for depth in range(1, len(letters) + 1):
        key, before = letters[:depth].encode(), letters[: depth - 1].encode()
        there = blocks.get(key)
        hashes = (int.from_bytes(key), int.from_bytes(before)) if named else (0, 0)
        added.append(there or blocks.add(key, len(blocks), *hashes))
    blocks.use(added)
    return added


def evicted(blocks: TierBlocks) -> list[str]:
    """Evict everything that can be; the keys in the order of eviction."""
    keys = {block.slot: key.decode() for key, block in blocks._by_key.items()}
    gone = []
    while (slot := blocks.evict()) is not None:
        gone.append(keys[slot])
    return gone


def test_the_prompt_that_was_used_longest_ago_goes_first_and_its_end_before_its_beginning() -> None:
    for named in (True, False):
        blocks = TierBlocks()
        prompt(blocks, "abc", named=named)
        prompt(blocks, "xy", named=named)
        prompt(blocks, "ab", named=named)
        assert evicted(blocks) == ["abc", "xy", "x", "ab", "a"]
        assert len(blocks) == 0


def test_a_block_stays_while_another_follows_it_even_if_that_was_written_later() -> None:
    """The blocks of a long prompt are written in several steps: the last step has its end."""
    blocks = TierBlocks()
    prompt(blocks, "ab")
    prompt(blocks, "x")
    blocks.use([blocks.add(b"abc", 3, int.from_bytes(b"abc"), int.from_bytes(b"ab"))])
    assert evicted(blocks) == ["x", "abc", "ab", "a"]


def test_a_pinned_block_and_all_before_it_stay() -> None:
    blocks = TierBlocks()
    ends = prompt(blocks, "abc")[1:2]
    prompt(blocks, "x")
    blocks.pin(ends)
    blocks.pin(ends)
    assert blocks.pinned == 1
    assert evicted(blocks) == ["abc", "x"]
    blocks.unpin(ends)
    assert evicted(blocks) == []
    blocks.unpin(ends)
    assert (evicted(blocks), blocks.pinned) == (["ab", "a"], 0)


def test_of_blocks_with_one_hash_the_router_is_told_once() -> None:
    """As of the groups of a hybrid model."""
    blocks = TierBlocks()
    blocks.add(b"group 0", 0, 7, 0)
    blocks.use([blocks.add(b"group 1", 1, 7, 0)])
    assert blocks.holdings.take().stored == [7]
    assert blocks.evict() == 1
    assert not blocks.holdings.take()


def test_the_queue_does_not_grow_with_uses() -> None:
    blocks = TierBlocks()
    for _ in range(5 * LEAST_STALE):
        prompt(blocks, "a")
        prompt(blocks, "x", named=False)
    assert len(blocks._queue) <= LEAST_STALE + 10
    assert evicted(blocks) == ["a", "x"]
