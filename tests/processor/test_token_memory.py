"""The memory gives the tokens of the tokenizer; the end of a prompt decodes like all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.decoders import DecodeStream

from dynamo_cli.engines.vllm.front.token_memory import ENTRY_BYTES, TAIL, TokenMemory, ending
from dynamo_cli.models import catalog, corpus, tiny

SPECIAL = ["<s>", "<|im_start|>", "<|im_end|>", "<|im", "[INST]", "<|tool|>"]
VOCABULARY = 600
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXT = corpus.TEXT[:20_000]


def byte_level() -> Tokenizer:
    """The tokenizer of `tiny`."""
    return tiny._tokenizer()


def demo() -> Tokenizer:
    """The tokenizer of SmolLM2."""
    folder = catalog.ready("demo")
    if folder is None:
        pytest.skip("the model demo is not here")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def llama_3() -> Tokenizer:
    """Byte-level BPE with a regular expression that joins line breaks to what comes before."""
    made = Tokenizer(models.BPE())
    words = Regex(
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(made, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet))


def sentencepiece(scheme: str) -> Callable[[], Tokenizer]:
    """BPE as in SentencePiece, with a space before the first word, or before each piece of text."""

    def make() -> Tokenizer:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        made.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(content=" ", left=1),
            ]
        )
        more = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<unk>", *BYTES])
        return trained(made, more)

    return make


def llama_2() -> Tokenizer:
    """As Llama 2 has it: the normalizer, not the pre-tokenizer, puts a space before each text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = sentencepiece("first")().decoder
    more = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<unk>", *BYTES])
    return trained(made, more)


def unigram() -> Tokenizer:
    """Unigram as in T5 and many multilingual models, which normalize the text."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    more = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    return trained(made, more)


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    more = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["[UNK]"])
    made = trained(made, more)
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 600)])
    return made


def trained(made: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    made.train_from_iterator(TEXT.splitlines(), trainer)
    made.add_special_tokens(SPECIAL)
    # These must not be cut at: they take what stands around them, or need it.
    made.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    made.add_special_tokens([AddedToken("<pad>", rstrip=True, normalized=False)])
    made.add_special_tokens([AddedToken("word", single_word=True, normalized=False)])
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("Plain", normalized=True)])
    return made


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "demo": demo,
    "llama 3": llama_3,
    "llama 2": llama_2,
    "sentencepiece, first": sentencepiece("first"),
    "sentencepiece, always": sentencepiece("always"),
    "unigram": unigram,
    "wordpiece": wordpiece,
}
TOKENIZERS = {name: cache(make) for name, make in MAKERS.items()}

PIECES = [
    *SPECIAL,
    *("<mask>", "<pad>", "word", "<think>", "Plain", "<|im_", "im_start|>", "<|IM_START|>"),
    *(" ", "  ", "\n", "\n\n", "\t", " \n", "user\n", "assistant\n", ".", "'s", "12345", "_"),
    *("Hello", "wörld", "猫", "👩‍🚀", "e\u0301", "\u200b", "▁", "<", "|>", "ﬁ"),
    *TEXT.split(" ")[:40],
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40).map("".join)


@cache
def _made(name: str) -> TokenMemory:
    return TokenMemory(TOKENIZERS[name](), 20 * ENTRY_BYTES)


def empty(name: str) -> TokenMemory:
    """A memory without an entry; its copy of a large tokenizer, which takes 0.3 s, is made once."""
    memory = copy(_made(name))
    memory._known = OrderedDict()
    return memory


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_conversations_give_the_tokens_of_the_tokenizer(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    memory = empty(name)
    text = data.draw(TEXTS)
    for _ in range(4):
        wanted = tokenizer.encode(text, add_special_tokens=False).ids
        assert memory.encode(text) == wanted
        assert memory.encode(text) == wanted
        # The next text begins as this one, wherever it is split, or ends as it does.
        place = data.draw(st.integers(0, len(text)))
        more = data.draw(TEXTS)
        text = data.draw(st.sampled_from([text[:place] + more, more + text[place:], text + more]))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_comes_again_is_not_tokenized_again(name: str) -> None:
    memory = TokenMemory(TOKENIZERS[name]())
    cut = "<|im_start|>"
    talk = f"{cut}system\nBe kind.{cut}user\n"
    memory.encode(talk + "Hello!")
    assert (memory.hits, memory.misses) == (0, 2)
    memory.encode(f"{talk}Hello!{cut}assistant\nHi.{cut}user\n")
    assert (memory.hits, memory.misses) == (2, 4)


def test_memory_is_bounded() -> None:
    memory = TokenMemory(byte_level(), 64 << 10)
    for number in range(300):
        memory.encode(f"<|im_start|>{number} {'word ' * 100}")
        assert 0 < memory.held_bytes <= 64 << 10
    memory.encode("<|im_start|>" + "word " * 10_000)  # it would take too much of the memory
    hits = memory.hits
    memory.encode(f"<|im_start|>299 {'word ' * 100}")
    assert memory.hits == hits + 1
    memory.encode(f"<|im_start|>0 {'word ' * 100}")
    assert memory.hits == hits + 1


def test_a_tokenizer_that_cuts_at_random_is_not_remembered() -> None:
    made = Tokenizer(models.BPE(vocab={"a": 0, "aa": 1}, merges=[("a", "a")], dropout=0.5))
    made.add_special_tokens(["<s>"])
    assert not TokenMemory(made).cuts


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_end_of_a_prompt_decodes_what_follows(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = st.integers(0, tokenizer.get_vocab_size() - 1)
    random_ids = st.lists(ids, min_size=TAIL, max_size=3 * TAIL)
    words = TEXTS.map(lambda text: list(tokenizer.encode(text).ids))
    prompt = data.draw(st.tuples(random_ids, words).map(lambda both: both[0] + both[1]))
    answer = data.draw(st.lists(ids, max_size=20) | words)
    skip = data.draw(st.booleans())
    end = ending(tokenizer, prompt, skip_special=skip)
    assert decoded(tokenizer, end, answer, skip) == decoded(tokenizer, prompt, answer, skip)


def test_most_prompts_are_cut() -> None:
    tokenizer = byte_level()
    prompt = tokenizer.encode(TEXT).ids
    assert ending(tokenizer, prompt, skip_special=True) == prompt[-TAIL:]
    unfinished = [*prompt, *tokenizer.encode("猫").ids[:1]]
    assert ending(tokenizer, unfinished, skip_special=True) is unfinished


def decoded(tokenizer: Tokenizer, prompt: list[int], answer: list[int], skip: bool) -> list[str]:
    """The text of each token of an answer, as vLLM decodes it."""
    stream, found = DecodeStream(ids=prompt, skip_special_tokens=skip), []
    for token in answer:
        try:
            found.append(stream.step(tokenizer, token) or "")
        except Exception as error:  # noqa: BLE001 - of the tokenizers library
            assert str(error).startswith("Invalid prefix"), error
            found.append("invalid")
            stream = DecodeStream(skip_special_tokens=skip)
    return found
