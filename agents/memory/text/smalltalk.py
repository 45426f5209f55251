"""Detects small talk, which needs no memory: a short text of nothing but words and phrases from a list."""

import re

from agents.memory.text.words import drop_accents, split_words

_WORDS = {
    "english": """
        hello hi hey yo greetings welcome bye goodbye cheers thanks thank thx please sorry pardon ok okay yes
        yeah yep yup no nope nah sure right alright fine great good nice cool awesome perfect wonderful amazing
        lol haha hahaha wow oh ah hmm well morning afternoon evening night see later soon talk again really how
        are is it going what's up whats how's hows things doing do you your i i'm im am we me that that's thats
        the this a an and so very much too for to of all just have been today tonight there then everyone
        indeed got understood agreed exactly absolutely definitely course lot lots bunch million appreciate
        appreciated care take pleasure worries meet weekend tomorrow at
    """,
    "french": """
        bonjour bonsoir salut coucou merci beaucoup oui non d'accord bien sûr ça va comment allez vous vas tu
        s'il plait plaît te au revoir bonne journée nuit soirée à bientôt super parfait génial et très c'est
        bon
    """,
    "german": """
        hallo guten tag morgen abend nacht gute danke schön dankeschön vielen dank bitte sehr gern gerne ja
        nein gut prima toll klar genau tschüss bis bald später auf wiedersehen wie geht es dir ihnen mir geht's
    """,
    "spanish": """
        hola buenos días buenas tardes noches gracias muchas por favor de nada sí vale claro perfecto adiós
        hasta luego pronto qué tal cómo estás está muy bien y usted encantado encantada genial bueno
    """,
    "italian": """
        ciao buongiorno buonasera buonanotte grazie mille prego sì no va bene certo arrivederci presto come
        stai sta molto perfetto scusa scusi
    """,
    "portuguese": "olá oi bom dia boa tarde noite obrigado obrigada sim não tudo bem até logo tchau por favor",
    "dutch": """
        hoi dag dank je u wel bedankt alsjeblieft alstublieft ja nee goed prima tot ziens straks hoe gaat het
        met
    """,
    "russian": """
        привет здравствуй здравствуйте добрый день доброе утро вечер доброй ночи спасибо большое пожалуйста да
        нет хорошо ладно отлично пока до свидания скорого как дела ты вы у тебя вас понятно конечно
    """,
    "arabic": """
        مرحبا أهلا وسهلا السلام عليكم وعليكم صباح مساء الخير النور شكرا جزيلا عفوا نعم لا حسنا تمام مع السلامة
        كيف حالك الحال الحمد لله إلى اللقاء
    """,
    "korean": """
        안녕 안녕하세요 감사합니다 고마워 고마워요 고맙습니다 네 예 아니요 아니 잘 가요 가세요 안녕히 계세요
        미안해요 죄송합니다 좋아요 알겠습니다 반갑습니다
    """,
}
_PHRASES = """
    你好 您好 大家好 谢谢 多谢 感谢 謝謝 多謝 再见 再見 拜拜 早上好 晚上好 下午好 早安 晚安 好的 没事 不客气
    没关系 对不起 明白 知道 最近怎么样 哈哈 是 不 对 好 行 嗯 你 您 了 吗 嗎 啊 呀 吧 呢 很 非常 的 こんにちは
    こんばんは おはよう ございます ありがとう どうも すみません ごめん なさい はい いいえ うん さようなら
    またね じゃあね おやすみ 了解 わかりました お元気ですか よろしく お願いします です ね よ สวัสดี ขอบคุณ
    ขอโทษ ครับ ค่ะ คะ มาก ใช่ ไม่
"""
"""Small talk without spaces."""

_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_PASSAGE = re.compile("(?:" + "|".join(sorted(_PHRASES.split(), key=len, reverse=True)) + ")+")
_LONGEST = 12
"""Words of small talk at most; a longer text counts as saying something."""

LONGEST_TALK = 2000
"""Characters of small talk at most: a huge text is not split into words to see that it says something."""


def is_small_talk(text: str) -> bool:
    """Whether the text greets, thanks, agrees or takes leave and says nothing that could be remembered."""
    if len(text) > LONGEST_TALK:
        return False
    words = _split_words(text)
    if len(words) > _LONGEST or any(character.isdigit() for character in text):
        return False
    return all(word in _SMALL or _PASSAGE.fullmatch(word) is not None for word in words)


def _split_words(text: str) -> list[str]:
    """The words without accents. An apostrophe within a word is made a letter: "what's" is small talk, "what" not."""
    return [drop_accents(word) for word in split_words(_APOSTROPHE.sub("\u02bc", text))]


_SMALL = frozenset(word for words in _WORDS.values() for word in _split_words(words))
