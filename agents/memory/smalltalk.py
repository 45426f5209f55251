"""Detects small talk, which needs no memory: a short text of nothing but words from a list (English and French)."""

import re

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")

_ENGLISH = """
    hello hi hey yo greetings welcome bye goodbye cheers thanks thank thx please sorry pardon ok okay yes yeah yep yup
    no nope nah sure right alright fine great good nice cool awesome perfect wonderful amazing lol haha hahaha wow oh
    ah hmm well morning afternoon evening night see later soon talk again really how are is it going what's up whats
    how's hows things doing do you your i i'm im am we me that that's thats the this a an and so very much too for to
    of all just have been today tonight there then everyone indeed got understood agreed exactly absolutely
    definitely course lot lots bunch million appreciate appreciated care take pleasure worries
    meet weekend tomorrow at
"""
_FRENCH = """
    bonjour bonsoir salut coucou merci beaucoup oui non d'accord bien sûr ça va comment allez vous vas tu s'il plait
    plaît te au revoir bonne journée nuit soirée à bientôt super parfait génial et très c'est bon
"""
_SMALL = frozenset((_ENGLISH + _FRENCH).split())
_LONGEST = 12
"""Words of small talk at most; a longer text counts as saying something."""


def is_small_talk(text: str) -> bool:
    """Whether the text greets, thanks, agrees or takes leave and says nothing that could be remembered."""
    words = _WORD.findall(text.casefold().replace("’", "'"))
    return len(words) <= _LONGEST and not any(c.isdigit() for c in text) and all(word in _SMALL for word in words)
