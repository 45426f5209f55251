"""Keeps the assistant's earlier answers from being evidence for themselves.

A question that is asked again does not bring its own answers back, only what it says beside asking.
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from agents.memory.ranking import Match, ScoredMatch
from agents.memory.settings import MemorySettings
from agents.memory.text.asks import asks_for_words, asks_in_words, says_something
from agents.memory.text.words import WordEncoder


def drop_own_answers(
    ranking: Iterable[ScoredMatch], *, text: str, words: WordEncoder, settings: MemorySettings
) -> Iterator[ScoredMatch]:
    """The ranking without what the assistant answered when it was asked the same as in ``text``.

    A match that asks the same stays without its answer if its question says something that ``text`` does not, else it
    goes. So does the line of an imported assistant that follows one.
    """
    if asks_for_words(text):
        yield from ranking
        return
    candidates = list(ranking)
    matches = [candidate.match for candidate in candidates]
    query_words = words.query_words(text)
    asks = {
        match.episode_id: words.query_words(match.question)
        for match in matches
        if match.own >= settings.same_ask or asks_in_words(query_words, words.query_words(match.question))
    }
    replies = {_reply_id(match, matches) for match in matches if match.episode_id in asks}
    for candidate in candidates:
        match = candidate.match
        if match.episode_id in replies:
            continue
        if (question_words := asks.get(match.episode_id)) is None:
            yield candidate
        elif not set(question_words) <= set(query_words) and says_something(match.question):
            yield replace(candidate, match=replace(match, answer=""))


def _reply_id(question: Match, matches: Iterable[Match]) -> str | None:
    """The id of the next of the matches in the question's session, if the assistant said it."""
    later = [
        match for match in matches if match.session_id == question.session_id and match.created_at > question.created_at
    ]
    following = min(later, key=lambda match: match.created_at, default=None)
    return following.episode_id if following is not None and following.speaker == "assistant" else None
