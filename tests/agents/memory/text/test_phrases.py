"""Key phrases of a text: which words are in one, and which come first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.text.phrases import rank_phrases
from agents.memory.text.stopwords import WEAK_WORDS

SENTENCES = {
    "english": "The kettle of the neighbours is on the stove and it was hot.",
    "french": "La bouilloire des voisins est sur la table dans le jardin et elle fume.",
    "german": "Die Kirschen in der Laube und der Kuchen auf dem Tisch sind nicht reif.",
    "spanish": "La vecina de los pintores y el gato de la calle no duermen en el barco.",
    "italian": "Il gatto della vicina e la lampada sono nella cucina con gli uccelli degli zii.",
    "portuguese": "A lareira da minha irmã e os gatos do pintor não dormem na cozinha com uma raposa.",
    "dutch": "De fiets van onze buren en het paard op de wei zijn niet van een bakker.",
    "russian": "Сестра и её соседи живут в Болонье.",
    "arabic": "المستشفى في القاهرة",
    "greek": "Η βάρκα και το σπίτι",
}
"""A sentence that shows in which language a text is."""


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("The kettle leaks.", ["kettle leaks"]),
        ("The kettle, the lamp and the stove.", ["kettle", "lamp", "stove"]),
        ("The kettle\nlamp", ["kettle", "lamp"]),
        ("We ate at Anna's, O'Brien paid 24 euros.", ["o'brien paid", "ate", "anna", "euros"]),
        ("L'eau de l’évier est froide, reste-t-il du café ?", ["eau", "évier", "froide", "reste", "café"]),
        ("Il mio gatto dorme sull'armadio.", ["gatto dorme", "armadio"]),
        ("Die Großmutter pflückt Kirschen.", ["grossmutter pflückt", "kirschen"]),
        ("Onze buren verkopen hun fiets.", ["buren verkopen", "fiets"]),
        ("Mi vecina nació en Hamburgo.", ["hamburgo", "vecina nació"]),
        ("A minha irmã mora em Coimbra.", ["irmã mora", "coimbra"]),
        ("Сестра живёт в Болонье.", ["сестра живёт", "болонье"]),
        ("Ο γείτονας αγόρασε βάρκα.", ["γείτονασ αγόρασε", "βάρκα"]),
        ("أخي يعمل في المستشفى", ["أخي يعمل", "المستشفى"]),
        ("Call snake_case and machine.Pin in ESP-IDF.", ["call snake_case", "machine.pin", "esp-idf"]),
        ("The 3 of 12, 24!", []),
    ],
)
def test_phrases_are_the_words_between_stop_words_and_punctuation(text: str, phrases: list[str]) -> None:
    assert sorted(rank_phrases(text)) == sorted(phrases)


def test_a_name_a_repeated_word_and_an_early_one_come_first() -> None:
    assert rank_phrases("It rained. Later Clara slept.")[0] == "clara slept"
    assert rank_phrases("The oven, the lamp. The lamp!")[0] == "lamp"
    assert rank_phrases("The oven is on. The lamp is on.") == ["oven", "lamp"]


def test_a_capital_that_begins_a_sentence_names_nobody() -> None:
    assert rank_phrases("She sings. Ovens and lamps and Tom.")[0] == "tom"


@pytest.mark.parametrize("language", WEAK_WORDS)
def test_weak_words_are_in_no_phrase(language: str) -> None:
    sentence = SENTENCES[language]
    phrases = rank_phrases(sentence)
    words = WEAK_WORDS[language].split()
    assert [word for word in words if rank_phrases(f"{sentence}\n{word}\n{word.title()}") != phrases] == []


@given(st.text(max_size=300))
def test_each_word_of_any_text_is_in_one_phrase(text: str) -> None:
    words = [word for phrase in rank_phrases(text) for word in phrase.split(" ")]
    assert len(words) == len(set(words))
    assert all(words)
