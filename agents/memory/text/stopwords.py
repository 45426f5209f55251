"""Words that say nothing of what a text is about, where qdrant-edge's lists do not have them: questions begin with most
of them. Accents are left out, as :func:`agents.memory.text.words.fold` does."""

STOP_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "french": """
            quoi quel quelle quels quelles quand combien comment pourquoi lequel laquelle lesquels lesquelles
            ou a meme ete etes etaient etait tres chez alors ca cela si comme plus aussi ici donc
        """,
        "german": "wann wer wem wen wessen wohin woher warum wieso weshalb gibt gab fur uber wurde wurden konnen",
        "spanish": """
            cual cuales cuanto cuanta cuantos cuantas cuando como donde adonde quien quienes que mas tambien esta estan
            fue habia hay
        """,
        "italian": "quale quali quando quanto quanta quanti quante dove come perche chi cosa piu e",
        "portuguese": "qual quais quando quanto quanta onde aonde como quem que porque nao mais sao esta",
        "dutch": "wie wat waar wanneer hoe waarom welke welk hoeveel",
        "russian": """
            когда где кто что чего какой какая какое какие каком каких какую какого сколько куда откуда почему зачем
            кому кем чем чем-то нее еще ее
        """,
        "arabic": "متى اين كم كيف لماذا ماذا بماذا هل اي من ما لم لن الى على علي مع عن في ان او قد هذا هذه",
        "greek": "ποτε που πως ποιος ποια ποιο τι ποσο γιατι",
        "korean": "언제 어디 어디서 누가 누구 무엇 무슨 뭐 왜 어떻게 어느 어떤 몇 얼마 나 너 저 우리 그 이",
    }.items()
}

CUTS = """
    什么时候 什么地方 为什么 什么样 什么 怎么样 怎么 怎样 多少 哪里 哪儿 哪个 哪位 哪家 哪些 哪 谁 几 吗 呢 吧
    啊 呀 嘛 的 了 是 我们 你们 他们 她们 我 你 您 他 她 它 这 那 什麼時候 什麼 為什麼 怎麼 哪裡 誰 幾 嗎 這 們
    いつ どこ だれ 誰 何 なに なぜ どう どの どんな いくら ですか ますか ました ません ます です でした だった
    から まで より ので けど という って ている でいる は が を に で と へ も の か ね よ
"""
"""What Chinese and Japanese passages are cut at: questions, pronouns, particles and endings."""

PARTICLES = "은 는 이 가 을 를 에 에서 에게 한테 의 도 로 으로 와 과 하고 까지 부터 마다 이랑 랑"
"""What hangs on Korean nouns."""
