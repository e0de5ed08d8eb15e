"""Pieces of a text have the tokens of the whole text, and only texts that may be cut are cut."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

from dynamo_cli.engines.vllm.front import pieces
from dynamo_cli.engines.vllm.front.pieces import PATTERNS, Pieces, can_be_cut
from dynamo_cli.engines.vllm.front.token_memory import TokenMemory
from dynamo_cli.lab.load.workload import words
from tests.processor.test_token_memory import PIECES, TEXT, TOKENIZERS, VOCABULARY

THREADS = 3
KNOWN = sorted(PATTERNS)
TEXTS = st.lists(
    st.sampled_from([*PIECES, " a b", "a ", " b", "A B", "é f", "don't say"]) | st.text(max_size=8),
    max_size=60,
).map("".join)


@cache
def divided(place: int) -> Tokenizer:
    """A tokenizer with one of the patterns."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(KNOWN[place]), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet)
    made.train_from_iterator(TEXT.splitlines(), trainer)
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return made


@cache
def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """Made once of each: it reads the whole vocabulary."""
    made = Pieces(tokenizer, THREADS, least=1)
    assert made.threads == THREADS
    return made


def check(tokenizer: Tokenizer, text: str) -> int:
    """Compare the tokens of a text and those of its pieces; returns the number of pieces."""
    made = pieces_of(tokenizer)
    whole: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    cut = list(made.cut(text))
    assert "".join(cut) == text
    assert made.tokens(text) == whole
    return len(cut)


@pytest.mark.parametrize("place", range(len(KNOWN)))
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_pieces_have_the_tokens_of_the_whole(place: int, text: str) -> None:
    check(divided(place), text)


@pytest.mark.parametrize("name", ["byte level", "demo"])
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_pieces_of_real_tokenizers(name: str, text: str) -> None:
    check(TOKENIZERS[name](), text)


def test_long_texts_are_cut_into_a_piece_for_each_thread() -> None:
    text = words(random.Random(1), 3000)
    assert check(TOKENIZERS["byte level"](), text) == THREADS


def test_the_memory_of_tokens_makes_new_ones_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_threads", lambda: THREADS)
    tokenizer = TOKENIZERS["byte level"]()
    memory = TokenMemory(tokenizer)
    dice = random.Random(2)
    system, said = words(dice, 4000), words(dice, 3000)
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n"
    assert memory.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    more = f"{text}<|im_start|>user\n{words(dice, 3000)}"
    assert memory.encode(more) == tokenizer.encode(more, add_special_tokens=False).ids
    assert memory.hits


@pytest.mark.parametrize(
    "name", ["llama 2", "sentencepiece, first", "sentencepiece, always", "unigram", "wordpiece"]
)
def test_texts_of_other_tokenizers_stay_whole(name: str) -> None:
    assert not can_be_cut(TOKENIZERS[name]())
    assert Pieces(TOKENIZERS[name](), THREADS).threads == 1


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("two words"),
        AddedToken("<a>", lstrip=True),
        AddedToken("<a>", rstrip=True),
        AddedToken("word", single_word=True),
    ],
)
def test_tokens_that_look_over_a_space_keep_a_text_whole(token: AddedToken) -> None:
    made = Tokenizer.from_str(TOKENIZERS["byte level"]().to_str())
    assert can_be_cut(made)
    made.add_tokens([token])
    assert not can_be_cut(made)


def test_an_unknown_pattern_keeps_a_text_whole() -> None:
    made = Tokenizer.from_str(divided(0).to_str())
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")
    assert not can_be_cut(made)


def test_there_are_threads_where_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((2, 1), (4, 1), (8, 2), (16, 4), (128, 8)):
        monkeypatch.setattr(pieces.os, "sched_getaffinity", lambda _, many=cores: range(many))
        assert Pieces(TOKENIZERS["byte level"]()).threads == threads
