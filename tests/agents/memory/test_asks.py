"""A question that is asked again does not bring its own earlier answers back."""

from pathlib import Path

import pytest

from agents.memory.answers import drop_own_answers
from agents.memory.ranking import Match, ScoredMatch
from agents.memory.settings import MemorySettings
from agents.memory.text.asks import asks_for_words, asks_in_words, says_something
from agents.memory.text.words import WordEncoder

WORDS = WordEncoder()
SETTINGS = MemorySettings(data_dir=Path("unused"))


def match(
    question: str, *, answer: str = "At 21.2 degrees.", own: float = 0.5, at: float = 1.0, speaker: str = ""
) -> ScoredMatch:
    return ScoredMatch(
        match=Match(
            episode_id=question,
            turn_id=question,
            session_id="s",
            question=question,
            answer=answer,
            created_at=at,
            similarity=own,
            own=own,
            speaker=speaker,
        ),
        score=1.0,
    )


def shown_texts(text: str, *matches: ScoredMatch) -> list[tuple[str, str]]:
    ranking = drop_own_answers(matches, text=text, words=WORDS, settings=SETTINGS)
    return [(candidate.match.question, candidate.match.answer) for candidate in ranking]


@pytest.mark.parametrize(
    "text",
    [
        "At what temperature does water boil?",
        "At what temperature does water boil",
        "tell me the capital of Italy",
        "Name three primary colours.",
        "Please explain what a noun is.",
        "And what is it in Fahrenheit? Thanks.",
        "Quelle est la capitale de l'Italie ?",
        "Dis-moi quelle heure il est",
        "où habite Mia",
        "à quelle température bout l'eau",
        "and again, what is 7 times 8",
        "In the year 1432, what was the capital of France?",
        "IN THE YEAR 1432, WHAT WAS THE CAPITAL OF FRANCE",
        "If my cat is ill, what helps?",
        "Hello, where is Rome, please?",
        "En 1432, quelle était la capitale de la France ?",
        "水は何度で沸騰しますか？",
        "",
        "?!",
    ],
)
def test_a_text_of_questions_and_requests_says_nothing(text: str) -> None:
    assert not says_something(text)


@pytest.mark.parametrize(
    "text",
    [
        "I have 21 apples. How many is twice that?",
        "What is my cat called? It is Otto, remember that.",
        "My cat is called Otto.",
        "The budget is 1.5 million. What is half of it?",
        "J'ai 21 pommes. Combien font le double ?",
        "Mia wohnt in Bern",
        "When I was young I lived in Rome.",
        "Quand j'étais petit, j'habitais à Rome.",
        "So I bought a red car.",
        "As a child I had a dog.",
        "In May we move.",
        "I have 21 apples, how many is that doubled?",
        "Mia is 6, which book suits her?",
        "J'ai 21 pommes, combien font le double ?",
        "The order ships to Lyon: when does it arrive?",
    ],
)
def test_a_text_with_a_statement_says_something(text: str) -> None:
    assert says_something(text)


@pytest.mark.parametrize(
    "question",
    [
        "At what temperature does water boil?",
        "at WHAT temperature does water boil",
        "At what temperature does water boil?!?",
        "Tell me: at what temperature does the water boil?",
        "I asked before: at what temperature does water boil?",
        "Water boils at what temperature?",
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_same_words_are_the_same_ask(question: str, swapped: bool) -> None:
    pair = ("At what temperature does water boil?", question)
    first, second = pair[::-1] if swapped else pair
    assert asks_in_words(WORDS.query_words(first), WORDS.query_words(second))
    assert shown_texts(first, match(second)) == [] or says_something(second)


@pytest.mark.parametrize(
    ("query", "question"),
    [
        ("At what temperature does water freeze?", "At what temperature does water boil?"),
        ("Change the plan of my trip to Rome so that day two has a museum.", "Plan my trip to Rome."),
        ("What did Otto eat in the park?", "Otto?"),
        ("", ""),
    ],
)
def test_other_words_are_another_ask(query: str, question: str) -> None:
    assert not asks_in_words(WORDS.query_words(query), WORDS.query_words(question))


def test_a_paraphrase_is_found_by_its_cosine() -> None:
    near = match("How hot must water be to boil?", own=0.85)
    far = match("How warm was the pool?", own=0.6)
    assert shown_texts("At what temperature does water boil?", near, far) == [
        ("How warm was the pool?", "At 21.2 degrees.")
    ]


def test_a_statement_beside_the_question_stays_without_the_answer() -> None:
    question = "I have 21 apples. How many apples do I have?"
    assert shown_texts("How many apples do I have?", match(question, answer="You have 12.")) == [(question, "")]


def test_a_statement_that_the_query_repeats_is_not_quoted_beside_it() -> None:
    question = "I have 21 apples. How many apples do I have?"
    assert shown_texts(question, match(question, answer="You have 12.")) == []
    assert shown_texts(f"Again: {question.lower()}", match(question, answer="You have 12.")) == []


def test_an_imported_answer_goes_with_the_question_that_it_follows() -> None:
    lines = [
        match("It boils at 21.2 degrees.", answer="", at=3.0, speaker="assistant"),
        match("Water boils when?", answer="", own=0.8, at=2.0, speaker="user"),
        match("The kettle is new.", answer="", at=1.0, speaker="user"),
        match("Put the kettle on.", answer="", at=4.0, speaker="assistant"),
    ]
    assert shown_texts("At what temperature does water boil?", *lines) == [
        ("The kettle is new.", ""),
        ("Put the kettle on.", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "What name did you suggest for my cat?",
        "Which name for my cat have you recommended?",
        "What was your last answer on the cat's name?",
        "Quel nom m'as-tu proposé pour mon chat ? Tu as dit Otto ?",
        "Qu'est-ce que vous avez répondu ?",
    ],
)
def test_earlier_answers_are_shown_to_who_asks_for_them(text: str) -> None:
    assert asks_for_words(text)
    assert shown_texts(text, match("Suggest a name for my cat.", answer="Otto.", own=0.9)) == [
        ("Suggest a name for my cat.", "Otto.")
    ]


def test_asking_a_favour_is_not_asking_for_earlier_words() -> None:
    assert not asks_for_words("Can you say at what temperature water boils?")
    assert not asks_for_words("Could you give me the capital of Italy?")
