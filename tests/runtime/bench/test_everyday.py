"""The report of the everyday bench: counts by kind, and the answers word for word."""

from runtime.bench.everyday import EverydayReply, JudgedReply, count_right, draw_markdown


def make_judged(kind: str, text: str, *, right: bool, error: str | None = None) -> JudgedReply:
    reply = EverydayReply(text=text, seconds=1.25, first_text=0.5, error=error)
    return JudgedReply(kind=kind, question=f"Which {kind}?", reply=reply, right=right)


JUDGED = [
    make_judged("fact", "Rome.", right=True),
    make_judged("fact", "", right=False, error="too late"),
    make_judged("code", "Here:\n\n```python\nx = 1\n```", right=True),
]


def test_right_answers_are_counted_by_kind() -> None:
    assert count_right(JUDGED) == {"fact": (1, 2), "code": (1, 1)}


def test_markdown_has_the_counts_and_every_answer_word_for_word() -> None:
    text = draw_markdown(JUDGED, model="tiny")
    assert "`kiki bench everyday --model tiny`" in text
    assert "**2 of 3** right" in text
    assert "| fact | 1 of 2 |" in text
    assert "**1. Which fact?** (fact, right, 1.2 s)\n\n> Rome." in text
    assert "> [too late]" in text
    assert "> Here:\n>\n> ```python\n> x = 1\n> ```" in text
