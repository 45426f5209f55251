"""Words, names, small talk, the floor and concepts in languages other than English."""

import unicodedata
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.memory.projection import project_episodes
from agents.memory.ranking import Match, fuse_scores, keep_relevant
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from agents.memory.text.concepts import concepts, salience
from agents.memory.text.smalltalk import is_small_talk
from agents.memory.text.words import WordEncoder, coverage, detect_language, split_words, text_language
from runtime.bench.memory.multilingual import EnglishWords
from schemas.errors import SetupError
from tests.agents.memory.pairs import use_local_qdrant
from tests.agents.memory.scenes import SIZE, episode, owner, unit

SETTINGS = MemorySettings(data_dir=Path("nowhere"))
WORDS = WordEncoder()

DIALOGUES = {
    "chinese": (
        "我什么时候去看牙医？",
        ("我下周三上午去看牙医。", "周末我们去吃火锅。", "我的车昨天坏了。", "我十一月要去东京出差。"),
    ),
    "traditional chinese": (
        "我什麼時候去看牙醫？",
        ("我下週三上午去看牙醫。", "週末我們去吃火鍋。", "我的車昨天壞了。", "我十一月要去東京出差。"),
    ),
    "japanese": (
        "歯医者はいつですか？",
        ("水曜日に歯医者に行きます。", "週末は鍋を食べます。", "車が壊れました。", "来月東京に出張します。"),
    ),
    "korean": (
        "치과는 언제 가요?",
        ("수요일에 치과에 갑니다.", "주말에 전골을 먹습니다.", "차가 고장났습니다.", "다음 달에 도쿄로 갑니다."),
    ),
    "thai": (
        "นัดหมอฟันวันไหน",
        ("วันพุธฉันมีนัดกับหมอฟัน", "สุดสัปดาห์เราจะไปกินสุกี้", "รถของฉันเสียเมื่อวาน", "เดือนหน้าฉันจะไปโตเกียว"),
    ),
    "french without accents": (
        "Quand dois-je voir le medecin ?",
        (
            "Mercredi, je vois le médecin.",
            "On mange une fondue samedi.",
            "La voiture est en panne.",
            "Je pars à Tokyo.",
        ),
    ),
    "german": (
        "Wann habe ich die Zahnarzttermine?",
        ("Der Zahnarzttermin ist am Mittwoch.", "Samstag gibt es Fondue.", "Das Auto steht still.", "Ich fliege weg."),
    ),
    "spanish": (
        "¿Cuándo tengo las citas con los dentistas?",
        ("El miércoles tengo cita con la dentista.", "El sábado comemos paella.", "El coche no anda.", "Voy a Tokio."),
    ),
    "russian": (
        "Когда я иду к стоматологу?",
        ("В среду стоматолог ждёт меня.", "В субботу едим пельмени.", "Машина сломалась.", "Лечу в Токио."),
    ),
    "arabic": (
        "متى موعد الطبيب؟",
        ("عندي موعد مع طبيب الأسنان يوم الأربعاء.", "نأكل الكسكس يوم السبت.", "تعطلت السيارة.", "أسافر إلى طوكيو."),
    ),
}
"""A question, and four lines of one speaker, of which the first one answers it."""


async def do_nothing() -> None:
    """The stores begin empty."""


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
@pytest.mark.parametrize("atlas", ["edge", "qdrant"])
@pytest.mark.parametrize("language", DIALOGUES)
async def test_the_words_of_a_question_find_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atlas: str, language: str
) -> None:
    question, lines = DIALOGUES[language]
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE)
    if atlas == "qdrant":
        settings = use_local_qdrant(settings, monkeypatch)
    episodes = [
        replace(episode(f"t{at}", session=f"s{at}", question=line, answer="", at=at, vector=unit(1)), speaker="李伟")
        for at, line in enumerate(lines)
    ]
    stores = Stores(settings)
    async with stores.open(do_nothing), stores.write_lock:
        await project_episodes(stores, episodes)
        lookup = Lookup(owner=owner(), vector=unit(2), text=question)
        ranking = await find(stores, lookup, now=10.0, settings=settings)
    assert ranking[0].match.question == lines[0]
    assert ranking[0].match.lexical > 0.0
    assert ranking[0].match.lexical > 2 * ranking[1].match.lexical


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Élodie a réservé à l'hôtel", "elodie a reserve a l'hotel"),
        ("Où était-elle née ?", "Ou etait-elle nee ?"),
        ("¿Cuándo vendrá el técnico?", "¿Cuando vendra el tecnico?"),
        ("São Paulo amanhã", "Sao Paulo amanha"),
        ("Łódź, Ærø, cœur", "Lodz, Aero, coeur"),
        ("Straße", "STRASSE"),
        ("ёлка", "елка"),
        ("Αθήνα", "αθηνα"),
        ("كِتَابٌ", "كتاب"),
        ("ＡＢＣ ｶﾞｰﾄﾞ", "abc ガード"),
        ("Élodie", unicodedata.normalize("NFD", "Élodie")),
        ("치과", unicodedata.normalize("NFD", "치과")),
    ],
)
def test_accents_case_and_width_do_not_count(text: str, same: str) -> None:
    assert WORDS.counts(text) == WORDS.counts(same)
    assert WORDS.counts(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [("йод", "иод"), ("ガラス", "カラス"), ("मेरी", "मेरा")],
)
def test_letters_of_their_own_are_no_accents(first: str, second: str) -> None:
    assert WORDS.counts(first) != WORDS.counts(second)


@pytest.mark.parametrize(
    ("language", "sentence", "first", "second"),
    [
        ("english", "Where are the {} that she has?", "bakery", "bakeries"),
        ("french", "Où sont les {} que nous avons ?", "réservation", "réservations"),
        ("french", "Est-ce que vous avez {} dans la ville ?", "mangé", "mangée"),
        ("french", "Est-ce que vous avez {} dans la ville ?", "visité", "visitées"),
        ("german", "Wo sind die {} von der Frau?", "Kirschbaum", "Kirschbaumes"),
        ("spanish", "¿Dónde están las {} de la casa?", "canción", "canciones"),
        ("italian", "Dove sono gli {} della casa?", "gatto", "gatti"),
        ("portuguese", "Onde estão as {} da casa?", "menina", "meninas"),
        ("dutch", "Waar zijn de {} van het huis?", "hond", "honden"),
    ],
)
def test_a_word_is_stemmed_in_the_language_of_its_text(language: str, sentence: str, first: str, second: str) -> None:
    assert detect_language(split_words(sentence.format(first))) == language
    assert WORDS.counts(sentence.format(first)) == WORDS.counts(sentence.format(second))


@pytest.mark.parametrize(("first", "second"), [("дача", "дачу"), ("яблоня", "яблонями"), ("المدينة", "مدينة")])
def test_a_script_says_its_language(first: str, second: str) -> None:
    assert WORDS.counts(first) == WORDS.counts(second)


def test_two_languages_share_a_memory() -> None:
    assert WORDS.counts("Nous avons signé le bail")
    assert not WORDS.counts("Où est-ce que nous étions ?")
    assert not WORDS.counts("Where is it that we were?")
    assert WordEncoder("french").counts("bakeries") == WORDS.counts("les bakeries de nous")
    with pytest.raises(SetupError, match="klingon"):
        WordEncoder("klingon")


ENGLISH = "where is the bakery that our sisters opened near a river in 2019"


@given(st.lists(st.sampled_from(ENGLISH.split())))
def test_english_counts_as_qdrant_counts_it(words: list[str]) -> None:
    text = " ".join(words)
    assert WORDS.counts(text) == EnglishWords().counts(text)


@given(st.text(max_size=200))
def test_any_text_has_words_that_both_stores_can_hold(text: str) -> None:
    counts = WORDS.counts(text)
    assert all(0 <= word < 1 << 32 and count > 0 for word, count in counts.items())
    assert set(WORDS.query_words(text)) == set(counts)
    assert is_small_talk(text) in (True, False)
    assert 0.0 <= salience(text, concepts(text)) <= 1.0


def test_a_pair_of_characters_has_the_same_hash_everywhere() -> None:
    assert zlib.crc32("牙医".encode()) in WORDS.counts("去看牙医")


def match(question: str, *, speaker: str = "") -> Match:
    return Match(
        episode_id=question,
        turn_id=question,
        session_id="s",
        question=question,
        answer="",
        created_at=0.0,
        similarity=0.1,
        own=0.1,
        lexical=1.0,
        speaker=speaker,
    )


@pytest.mark.parametrize("language", DIALOGUES)
def test_most_of_the_words_pass_the_floor_and_other_words_do_not(language: str) -> None:
    _, lines = DIALOGUES[language]
    ranking = fuse_scores([match(line) for line in lines], text=lines[0], now=0.0, settings=SETTINGS)
    kept = keep_relevant(ranking, text=lines[0], words=WORDS, settings=SETTINGS)
    assert [candidate.match.question for candidate in kept] == [lines[0]]


@pytest.mark.parametrize("language", DIALOGUES)
def test_closeness_without_a_word_counts_in_english_only(language: str) -> None:
    question, lines = DIALOGUES[language]
    close = replace(match(lines[0]), similarity=0.9, own=0.9)

    def passes(text: str, lexical: float, settings: MemorySettings) -> bool:
        ranking = fuse_scores([replace(close, lexical=lexical)], text=text, now=0.0, settings=settings)
        return any(keep_relevant(ranking, text=text, words=WORDS, settings=settings, session_id=close.session_id))

    assert passes(question, 1.0, SETTINGS)
    assert not passes(question, 0.0, SETTINGS)
    assert passes("When do I see the dentist?", 0.0, SETTINGS)
    everywhere = replace(SETTINGS, floor_languages=(text_language(split_words(question)),))
    assert passes(question, 0.0, everywhere)


def test_a_chinese_question_is_covered_by_its_answer() -> None:
    question, lines = DIALOGUES["chinese"]
    shares = [coverage(WORDS.query_words(question), WORDS.counts(line)) for line in lines]
    assert shares[0] >= SETTINGS.floor_coverage > max(shares[1:])


@pytest.mark.parametrize(
    ("speaker", "text"),
    [
        ("李伟", "李伟什么时候去看牙医？"),
        ("小雨", "昨天小雨说了什么？"),
        ("健太", "健太さんはどこに住んでいますか？"),
        ("민수", "민수가 언제 왔어요?"),
        ("สมชาย", "วันนี้สมชายไปไหน"),
        ("Анна", "Когда Анне лечить зубы?"),
        ("Ольга", "Что сказала Ольге сестра?"),
        ("Zoé", "Que dit zoe ?"),
        ("Anna", "Wo sind Annas Schlüssel?"),
        ("ليلى", "أين ليلى؟"),
    ],
)
def test_a_name_is_known_in_any_language(speaker: str, text: str) -> None:
    candidates = [match("x", speaker=speaker), match("y", speaker="Bob")]
    spoke = {
        candidate.match.speaker: candidate.spoke
        for candidate in fuse_scores(candidates, text=text, now=0.0, settings=SETTINGS)
    }
    assert spoke == {speaker: True, "Bob": False}


@pytest.mark.parametrize("text", ["牙医在哪里？", "歯医者はどこ？", "أين الطبيب؟"])
def test_a_question_asks_in_any_script(text: str) -> None:
    assert fuse_scores([match(text)], text="x", now=0.0, settings=SETTINGS)[0].asks


@pytest.mark.parametrize(
    "text",
    [
        "你好！",
        "谢谢你",
        "好的，明白了",
        "ありがとうございます",
        "こんにちは、お元気ですか？",
        "안녕하세요",
        "สวัสดีครับ",
        "Привет, как дела?",
        "شكرا جزيلا",
        "Guten Morgen, wie geht's?",
        "Danke schön!",
        "¿Qué tal? Muy bien, gracias",
        "Grazie mille",
        "Merci, tres bien",
        "Obrigado, tchau",
    ],
)
def test_small_talk_is_known_in_any_language(text: str) -> None:
    assert is_small_talk(text)


@pytest.mark.parametrize("language", DIALOGUES)
def test_a_line_that_says_something_is_no_small_talk(language: str) -> None:
    question, lines = DIALOGUES[language]
    assert not any(map(is_small_talk, [question, *lines]))


@pytest.mark.parametrize("text", ["What?", "What is it?", "Qui est-ce ?", "Il vit à Nantes.", "什么？", "我不知道"])
def test_a_question_of_few_words_is_no_small_talk(text: str) -> None:
    assert not is_small_talk(text)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("Nous avons signé le bail de la rue des Tanneurs.", "tanneurs"),
        ("Anna pflanzt Kartoffeln in der Kolonie Sonnental.", "kolonie sonnental"),
        ("Мы купили дачу в деревне Сосновка.", "деревне сосновка"),
        ("来週、京都で同窓会がある。", "同窓会"),
        ("수요일에 치과에 갑니다.", "치과"),
        ("我下周三去看牙医。", "下周三去看牙医"),
    ],
)
def test_concepts_are_phrases_of_the_language(text: str, phrase: str) -> None:
    phrases = concepts(text)
    assert phrase in phrases
    assert not {"nous", "der", "в", "に"} & set(phrases)
    assert salience(text, phrases) > 0.0
