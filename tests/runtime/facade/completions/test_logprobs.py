"""Tokens in the shape of text completions."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.facade.completions.logprobs import Offsets, answer_rows, describe_rows, echo_rows, name_token
from schemas.findings import Echo, LikelyToken, TokenLogprob


def token_of(own: bytes, *top: LikelyToken) -> TokenLogprob:
    """A token as the worker describes it: with its bytes where they are no text."""
    text = own.decode(errors="replace")
    return TokenLogprob(token=text, logprob=-0.5, bytes=() if text.encode() == own else tuple(own), top=top)


def test_the_chosen_token_stands_beside_the_likeliest() -> None:
    likely = (LikelyToken(token=" Paris", logprob=-0.1), LikelyToken(token=" Lyon", logprob=-3.0))
    lists = describe_rows(answer_rows([token_of(b" Rome", *likely), token_of(b".")]), Offsets())
    assert lists == {
        "tokens": [" Rome", "."],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{" Paris": -0.1, " Lyon": -3.0, " Rome": -0.5}, {".": -0.5}],
        "text_offset": [0, 5],
    }


def test_nothing_is_known_of_a_prompts_first_token() -> None:
    lists = describe_rows(echo_rows(Echo(text="Hi.", tokens=(token_of(b"Hi"), token_of(b".")))), Offsets())
    assert (lists["tokens"], lists["token_logprobs"]) == (["Hi", "."], [None, -0.5])
    assert lists["top_logprobs"] == [None, {".": -0.5}]
    assert echo_rows(Echo(text="")) == []


def test_halves_of_a_character_have_names_of_their_own() -> None:
    first, second = token_of("é".encode()[:1]), token_of("é".encode()[1:])
    assert (name_token(first), name_token(second)) == ("bytes:\\xc3", "bytes:\\xa9")
    rows = answer_rows([token_of(b"x", LikelyToken(token="\ufffd", logprob=-1.0, bytes=(0xC3,)), second)])
    assert rows[0].top == {"bytes:\\xc3": -1.0, "bytes:\\xa9": -0.5, "x": -0.5}


@given(st.text(max_size=30), st.lists(st.integers(min_value=1, max_value=4), max_size=40))
def test_an_offset_is_the_number_of_characters_before(text: str, cuts: list[int]) -> None:
    data, tokens, at = text.encode(), [], 0
    for cut in cuts:
        tokens.append(data[at : at + cut])
        at += cut
    tokens = [own for own in [*tokens, data[at:]] if own]
    offsets = describe_rows(answer_rows([token_of(own) for own in tokens]), Offsets())["text_offset"]
    ends = [len(b"".join(tokens[:index]).decode(errors="ignore")) for index in range(len(tokens))]
    assert offsets == ends
