"""A token's own bytes, in the three ways in which vocabularies write them."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agents.inference.vocabulary import ByteDetokenizer, Vocabulary
from schemas.findings import LikelyToken

TEXT = "😊漢 is 2 words"


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return Vocabulary(tokenizer, size=len(tokenizer))


def own_bytes(token: LikelyToken) -> bytes:
    return bytes(token.bytes) or token.token.encode()


def make_sentencepiece() -> PreTrainedTokenizerFast:
    """A vocabulary in SentencePiece's manner: a mark for the space, and every byte by its number."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁Paris", "is", "▁", "Ġ", "ĠĊ"]
    model = BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[], byte_fallback=True, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), bos_token="<s>", eos_token="</s>")


class TiktokenLike:
    """A tokenizer whose pieces are bytes, with one special token."""

    def __init__(self) -> None:
        self.added_tokens_decoder = {3: "<|end|>"}

    def __len__(self) -> int:
        return 4

    def get_vocab(self) -> dict[bytes | str, int]:
        return {b"\xf0\x9f": 0, b"\x98\x8a": 1, b" ok": 2, "<|end|>": 3}

    def convert_ids_to_tokens(self, token: int) -> bytes | str:
        return list(self.get_vocab())[token]


def test_every_token_of_a_byte_level_vocabulary_reads_as_the_tokenizer_says(
    tokenizer: Any, vocabulary: Vocabulary
) -> None:
    assert [vocabulary.describe(token, 0.0).token for token in range(0, len(tokenizer), 7)] == [
        tokenizer.decode([token]) for token in range(0, len(tokenizer), 7)
    ]


def test_halves_of_characters_have_their_own_bytes_and_whole_ones_none(tokenizer: Any, vocabulary: Vocabulary) -> None:
    tokens = [vocabulary.make_entry(token, -0.5) for token in tokenizer.encode(TEXT, add_special_tokens=False)]
    assert b"".join(map(own_bytes, tokens)) == TEXT.encode()
    halves = [token for token in tokens if token.bytes]
    assert len(halves) == 6
    assert {token.token for token in halves} == {"\ufffd"}
    assert len({token.bytes for token in halves}) == 6, "told apart though their texts are equal"


def test_the_likeliest_tokens_have_their_bytes_too_and_impossible_ones_are_left_out(vocabulary: Vocabulary) -> None:
    half, whole = next(token for token in range(500) if vocabulary.describe(token, 0.0).bytes), 400
    entry = vocabulary.make_entry(whole, -0.1, [(whole, -0.1), (half, -2.0), (7, float("-inf"))])
    assert [bool(token.bytes) for token in entry.top] == [False, True]


def test_a_sentencepiece_vocabulary_has_spaces_and_byte_tokens() -> None:
    sentencepiece = make_sentencepiece()
    vocabulary = Vocabulary(sentencepiece, size=len(sentencepiece))
    by_piece = sentencepiece.get_vocab()
    paris = vocabulary.describe(by_piece["▁Paris"], -0.5)
    assert (paris.token, paris.bytes) == (" Paris", ())
    half = vocabulary.describe(by_piece["<0xE6>"], -0.5)
    assert (half.token, half.bytes) == ("\ufffd", (0xE6,))
    assert vocabulary.describe(by_piece["<0x0A>"], -0.5) == LikelyToken(token="\n", logprob=-0.5)
    assert vocabulary.describe(by_piece["Ġ"], -0.5).token == "Ġ", "a letter here, not a space"
    tokens = [by_piece[piece] for piece in ("▁", "<0xE6>", "<0xBC>", "<0xA2>", "is", "▁Paris")]
    assert vocabulary.decode(tokens) == " 漢is Paris"


def test_a_vocabulary_of_bytes_is_read_as_it_is() -> None:
    vocabulary = Vocabulary(TiktokenLike(), size=6)
    assert [vocabulary.bytes_of(token) for token in range(5)] == [b"\xf0\x9f", b"\x98\x8a", b" ok", b"<|end|>", b""]
    assert vocabulary.decode([0, 1, 2]) == "😊 ok"


def test_an_unknown_vocabulary_is_decoded_by_its_tokenizer() -> None:
    class Letters(TiktokenLike):
        def get_vocab(self) -> dict[bytes | str, int]:
            return {"a": 0, "b": 1}

        def decode(self, tokens: list[int]) -> str:
            return "".join("ab"[token] for token in tokens)

    letters = Letters()
    letters.added_tokens_decoder.clear()
    vocabulary = Vocabulary(letters, size=2)
    assert not vocabulary.knows_bytes
    assert vocabulary.describe(1, -1.0) == LikelyToken(token="b", logprob=-1.0)
    assert vocabulary.decode([0, 1]) == "ab"


def test_text_comes_whole_with_its_first_space(tokenizer: Any, vocabulary: Vocabulary) -> None:
    detokenizer, segments = ByteDetokenizer(vocabulary), []
    for token in tokenizer.encode(f" {TEXT}", add_special_tokens=False):
        detokenizer.add_token(token)
        segments.append(detokenizer.last_segment)
    detokenizer.finalize()
    assert "".join(segments) == f" {TEXT}"
    assert detokenizer.last_segment == ""
    assert not any("\ufffd" in segment for segment in segments)


def test_half_a_character_at_the_end_is_replaced(tokenizer: Any, vocabulary: Vocabulary) -> None:
    detokenizer = ByteDetokenizer(vocabulary)
    detokenizer.add_token(tokenizer.encode("漢", add_special_tokens=False)[0])
    assert detokenizer.last_segment == ""
    detokenizer.finalize()
    assert detokenizer.last_segment == "\ufffd"
