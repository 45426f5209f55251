from agents.negotiator import prompts
from agents.shared.follow_up import follow_up


def test_an_ending_is_the_answer_as_it_was_said_and_the_question_about_it() -> None:
    answer, ask = follow_up("12 km", "Is that right?")
    assert (answer.role, answer.content) == ("assistant", "12 km")
    assert (ask.role, ask.content) == ("user", "Is that right?")


def test_ballots_and_comparisons_are_endings() -> None:
    assert prompts.ballot("12 km", objection=None) == follow_up("12 km", "Is that right?")
    assert prompts.comparison("1", "2", objection=None, votes=None, analysis="")[0] == follow_up("A: 1\nB: 2", "")[0]
