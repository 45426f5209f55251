from agents.case import blank, case


def test_a_case_shows_the_question_the_exhibits_and_then_what_is_asked() -> None:
    system, user = case(
        "You judge.", "How far?", ("Answer", "12 km"), ("A critic objects", "In which unit?"), ask="Well?"
    )
    assert (system.role, system.content) == ("system", "You judge.")
    assert user.content == "Question:\nHow far?\n\nAnswer:\n12 km\n\nA critic objects:\nIn which unit?\n\nWell?"


def test_what_is_asked_of_one_case_shares_its_beginning() -> None:
    one, two = (
        case("You judge.", "How far?", ("Answer", "12 km"), ask=ask)[-1].content for ask in ("Fair?", "Unfair?")
    )
    assert one.removesuffix("Fair?") == two.removesuffix("Unfair?")


def test_a_blank_case_has_the_same_form_with_nothing_in_it() -> None:
    filled = case("You judge.", "N/A", ("Answer", "N/A"), ask="Well?")
    assert blank("You judge.", "Answer", ask="Well?") == filled
