"""The closed lists of words by which claims are read, for English and French. Words stand in lower case without
accents, as :func:`agents.memory.text.claims.fold` gives them; patterns read a sentence's words with single spaces."""

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

Pattern = re.Pattern[str]


class Language(Struct, frozen=True, kw_only=True, eq=False):
    """What is read in one language.

    Attributes:
        marks: words that tell the language.
        clauses: where a sentence is parted in two.
        asks: how a question or a request begins.
        openings: what may stand before a statement.
        contractions: what is written out, and how.
        numbers: words for numbers.
        negation: what denies; ``change`` what says that a value was set anew.
        past: what happened once, and is no state.
        future: plans; ``wishes`` are words of wishes and conditions.
        adverbs: words left out before anything else is read.
        idle: words that say nothing by themselves.
        pronouns: subjects of which it is unknown whom they mean.
        speakers: the speaker; ``several`` are those that mean more than one, ``listeners`` who is spoken to.
        others: determiners of what belongs to somebody else.
        finite: auxiliaries; ``copulas`` those that mean "to be", ``having`` those that mean "to have".
        verbs: other verbs after which the subject has ended.
        schedules: verbs whose time is the subject's; ``hours_of_day`` those of them that may differ from day to day.
        likings: verbs of liking and knowing.
        ends: how a sentence tells an end; ``begins`` a beginning.
        slots: patterns of home, work and school.
        named: "is called".
        shifts: verbs after which "to 11" is an hour.
        unspoken: verbs before which the speaker may leave out himself.
    """

    marks: frozenset[str]
    clauses: Pattern
    asks: Pattern
    openings: Pattern
    contractions: tuple[tuple[Pattern, str], ...]
    numbers: Mapping[str, str]
    negation: Pattern
    change: Pattern
    past: Pattern
    future: Pattern
    wishes: frozenset[str]
    adverbs: frozenset[str]
    idle: frozenset[str]
    pronouns: frozenset[str]
    speakers: frozenset[str]
    several: frozenset[str]
    listeners: frozenset[str]
    others: frozenset[str]
    determiners: frozenset[str]
    indefinite: frozenset[str]
    definite: frozenset[str]
    of: frozenset[str]
    finite: frozenset[str]
    copulas: frozenset[str]
    having: frozenset[str]
    verbs: frozenset[str]
    schedules: frozenset[str]
    hours_of_day: frozenset[str]
    likings: frozenset[str]
    ends: Pattern
    begins: Pattern
    slots: tuple[tuple[str, Pattern], ...]
    named: Pattern
    days: frozenset[str]
    months: Mapping[str, str]
    hours: frozenset[str]
    shifts: frozenset[str]
    unspoken: frozenset[str]
    at_hour: frozenset[str]
    stem: Callable[[str], str]


def stem_english(word: str) -> str:
    """The word without its commonest endings: "smokes", "smoking" and "smoke" are one."""
    if len(word) <= 3:
        return word
    for ending, rest in (("ing", 3), ("ed", 3)):
        if word.endswith(ending) and len(word) - len(ending) >= rest:
            word = word.removesuffix(ending)
            break
    else:
        if word.endswith("s") and not word.endswith("ss"):
            word = word[:-1]
    return _undouble(word.removesuffix("e") if len(word) > 3 else word)


_FRENCH_ENDING = re.compile(r"(?<=\w{3})(?:ent|ee|e?r|ez|(?<=[di])re|ir|te?|e)$")


def stem_french(word: str) -> str:
    """The word without its commonest endings: "fume", "fument" and "fumer" are one."""
    if len(word) <= 3:
        return word
    return _undouble(_FRENCH_ENDING.sub("", word[:-1] if word[-1] in "sx" else word))


_CONSONANTS = frozenset("bcdfghjklmnpqrstvwxz")


def _undouble(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] in _CONSONANTS else word


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    """Words that mean the same: ``canonical=word,word`` by line or space."""
    return {word: name for part in text.split() for name, words in [part.split("=")] for word in words.split(",")}


UNITS = _pairs("""
    euro=€,euro,euros,eur dollar=$,dollar,dollars,usd pound=£,pound,pounds,gbp percent=%,percent
    kg=kg,kilo,kilos,kilogram,kilograms,kilogrammes g=g,gram,grams,gramme,grammes mg=mg t=tons,tonnes
    km=km,kilometres,kilometers,kilometre mile=mile,miles m=m,metre,metres,meter,meters cm=cm mm=mm
    l=l,litre,litres,liter,liters ml=ml cl=cl gb=gb,go,gigabytes tb=tb,to mb=mb,mo
    year=year,years,an,ans hour=hour,hours,heure,heures minute=minute,minutes,min day=day,days,jour,jours
    week=weeks,semaines month=months degree=degrees,degres kcal=kcal,calories w=w,watts v=v,volts
""")
"""Units, by each way to write them."""

_ENGLISH_STATES = {
    "relation": "single=single married=married,wife,husband engaged=engaged divorced=divorced "
    "widowed=widowed,widow,widower "
    "separated=separated couple=relationship",
    "condition": "broken=broken fine=repaired,fixed,mended",
    "opening": "open=open,reopened closed=closed,shut",
    "health": "ill=ill,sick well=well,recovered,healthy,cured",
    "whereabouts": "hospital=hospital home=home",
    "diet": "plants=vegetarian vegan=vegan meat=meat neutral=eat",
    "work": "none=unemployed,jobless,retired",
    "life": "alive=alive dead=dead,died",
    "fill": "full=full empty=empty",
    "sale": "available=available gone=unavailable",
    "colour": "red=red blue=blue green=green yellow=yellow white=white black=black grey=grey,gray brown=brown "
    "auburn=ginger fair=blond,blonde "
    "orange=orange pink=pink purple=purple neutral=painted,repainted,paint",
}
_FRENCH_STATES = {
    "relation": "single=celibataire married=marie engaged=fiance divorced=divorce widowed=veuf,veuve "
    "separated=separe couple=couple",
    "condition": "broken=panne,casse fine=repare",
    "opening": "open=ouvert,rouvert closed=ferme",
    "health": "ill=malade well=gueri,retabli",
    "whereabouts": "hospital=hopital home=maison neutral=rentre",
    "diet": "plants=vegetarien,vegetarienne vegan=vegan,vegetalien meat=viande neutral=mange",
    "work": "none=chomage,retraite neutral=sans,emploi",
    "life": "alive=vivant dead=mort,decede",
    "fill": "full=plein,complet empty=vide",
    "sale": "available=disponible gone=indisponible",
    "colour": "red=rouge blue=bleu green=vert yellow=jaune white=blanc,blanche black=noir grey=gris "
    "brown=marron,brun auburn=roux,rousse fair=blond "
    "orange=orange pink=rose purple=violet neutral=peint,repeint",
}
NEUTRAL = "neutral"
"""What a group's words say that name no state of it ("eat meat")."""


def _groups() -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for states, stem in ((_ENGLISH_STATES, stem_english), (_FRENCH_STATES, stem_french)):
        for group, text in states.items():
            groups.setdefault(group, {}).update({stem(word): state for word, state in _pairs(text).items()})
    return groups


GROUPS = _groups()
"""States that exclude each other: by group, the state that a word's stem names."""


def _stems(english: str, french: str) -> frozenset[str]:
    return frozenset(map(stem_english, english.split())) | frozenset(map(stem_french, french.split()))


ONLY = _stems(
    "name budget favourite favorite address password passcode code pin email phone number boss doctor manager "
    "landlord colour color size "
    "employer job capital captain president database motto goal wifi supplier operator provider username surname "
    "nickname",
    "nom prenom preferee adresse passe mail courriel telephone numero chef patron medecin proprietaire couleur taille "
    "employeur metier capitale capitaine presidente objectif pseudo surnom fournisseur operateur",
)
"""What somebody or something has one of: any other value replaces."""

KIN = _stems(
    "friend brother sister son daughter colleague neighbour neighbor cousin uncle aunt kid child children nephew "
    "niece student pupil",
    "ami amie frere soeur fils fille collegue voisin voisine cousin cousine oncle tante enfant enfants neveu "
    "niece eleve",
)
"""Whom somebody may have several of: two names are two of them."""

NAME = stem_english("name")
NAMING = dict.fromkeys(_stems("", "nom prenom"), NAME)
"""The stem of "name" in the other language, too."""

TITLES = _words("mr mrs ms dr st doctor monsieur madame mme docteur professor professeur maitre")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
MOIS = (
    "janvier", "fevrier", "mars", "avril", "mai", "juin", "juillet", "aout", "septembre", "octobre", "novembre",
    "decembre",
)  # fmt: skip
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
MOIS = (
    "janvier", "fevrier", "mars", "avril", "mai", "juin", "juillet", "aout", "septembre", "octobre", "novembre",
    "decembre",
)  # fmt: skip
PROFESSION = (
    r"(?!(?:fa|mo|grandfa|grandmo|bro)ther\b|sister\b|member\b|customer\b|vegetarian\b|smoker\b|user\b|beginner\b)"
    r"(?:\w{2,}(?:er|or|ist|ian|eer|man|woman)|nurse|chef|cook|judge|pilot|architect|student|accountant|consultant)"
)
METIER = (
    r"(?!vegetari|celibat|chretien|premier)"
    r"(?:\w{2,}(?:eur|euse|ier|iere|ien|ienne|iste|trice|logue|cien)|avocate?|prof|medecin|pilote|juge|chef|architecte|"
    r"etudiante?|comptable|consultante?|ouvriere?|cadre|enseignante?|secretaire)"
)

ENGLISH = Language(
    marks=_words(
        "the i my is are am an in at to of and not do does have has no we our was were for with she he they "
        "it called his her their its this that i'm don't goes got"
    ),
    clauses=re.compile(r",? (?:and|but|so) (?=(?:i|my|we|our|he|she|the|it)\b)|, (?=(?:i|my|we|our)\b)", re.IGNORECASE),
    asks=re.compile(
        r"\W*(?:what|where|when|who|whose|whom|which|why|how|do|does|did|is|are|am|can|could|would|will|should|"
        r"shall|have|"
        r"has|may i|give|tell|write|suggest|explain|show|find|list|help|recommend|translate|summari[sz]e|make me|"
        r"please (?!remember|note|keep))\b"
    ),
    openings=re.compile(
        r"^(?:(?:hi|hello|hey|by the way|just so you know|to be clear|actually|well|okay|ok|so|correction|update|"
        r"no|yes|sorry|anyway|fyi|and|"
        r"but|also|"
        r"please|in fact|unfortunately|luckily|finally|good news|news|from now on|these days|nowadays|as of now)\b"
        r"[\s,:!-]*)*"
        r"(?:(?:remember|note|keep in mind|know|i think|i told you|for the record|"
        r"for your information)\b(?: that)?[\s,:]+)?",
        re.IGNORECASE,
    ),
    contractions=(
        (re.compile(r"\bcan(?:'t|not)\b", re.IGNORECASE), "can not"),
        (re.compile(r"\bwon't\b", re.IGNORECASE), "will not"),
        (re.compile(r"n't\b", re.IGNORECASE), " not"),
        (re.compile(r"'m\b", re.IGNORECASE), " am"),
        (re.compile(r"'re\b", re.IGNORECASE), " are"),
        (re.compile(r"'ve\b", re.IGNORECASE), " have"),
        (re.compile(r"'ll\b", re.IGNORECASE), " will"),
        (re.compile(r"'d\b", re.IGNORECASE), " would"),
        (re.compile(r"\btakes? place\b"), "starts"),
        (re.compile(r"\b(?:rose|fell|dropped|grew|climbed)(?= (?:to|from|by)\b)", re.IGNORECASE), "went"),
        (re.compile(r"\b(went|moved|changed|raised|lowered|increased|reduced) from \S*\d\S*(?: \w+)?(?= to\b)"), r"\1"),
        (re.compile(r"\b(it|he|she|that|there|here)'s\b", re.IGNORECASE), r"\1 is"),
        (re.compile(r"'s\b|'(?= )", re.IGNORECASE), ""),
        (
            re.compile(
                r"\b(?:from now on|as of now|these days|from \w+ on|at the moment|at last|of late|"
                r"(?:last|next|this) (?:week|month|year|spring|summer|autumn|winter|night)|"
                r"(?:a few |a couple of |\w+ )(?:days?|weeks?|months?|years?) ago)\b",
                re.IGNORECASE,
            ),
            "",
        ),
    ),
    numbers=_pairs(
        "2=two 3=three,third 4=four,fourth 5=five,fifth 6=six,sixth 7=seven,seventh 8=eight,eighth 9=nine,ninth "
        "10=ten,tenth 11=eleven 12=twelve 1=first 20=twenty 30=thirty 40=forty 50=fifty"
    ),
    negation=re.compile(r"\b(?:not|never|no longer|any ?more|any longer|used to|no)\b"),
    change=re.compile(
        r"\b(?:moved|postponed|rescheduled|changed|raised|lowered|increased|reduced|delayed|extended|shifted|pushed|"
        r"brought forward|went|turned|became|become|cut|set)\b"
    ),
    past=re.compile(
        r"(?:was|were|had|did|(?:have |has )?(?:\w*[^e\W]ed|sent|met|bought|paid|ate|drank|saw|took|made|wrote|"
        r"spent|found|"
        r"lost|won|gave|told|heard|felt|slept|ran|flew|drove|lent|cost|came|left|sold|taught|taken|been to|seen|"
        r"built))\b"
        r"(?! to \w)"
    ),
    future=re.compile(
        r"\b(?:(?:plan|plans|planning|going|about|want|wants|hope|hopes|intend|intends|like) to\b|"
        r"(?:am|is|are) (?:moving|leaving|starting|flying|seeing|meeting|thinking|considering|looking|planning)\b)"
    ),
    wishes=_words("would could might wish maybe perhaps if should shall will considering probably unless"),
    adverbs=_words(
        "now currently finally again actually instead already still just also too really very not no never "
        "longer any more anymore presently yesterday recently last ago next officially definitely nowadays "
        "simply once"
    ),
    idle=_words(
        "the a an my our your his her their its to of in on at for by and that this these those is are am was "
        "were be been being has have had having do does did can get got gets new old current same own since "
        "until per i we us me it moved postponed rescheduled changed raised lowered increased reduced delayed "
        "extended shifted pushed forward brought went up down back turned became become cut set as there here "
        "used mr mrs dr"
    ),
    pronouns=_words("it he she they this that these those there here who which him them everyone somebody"),
    speakers=_words("i we"),
    several=_words("we"),
    listeners=_words("you"),
    others=_words("his her their its your"),
    determiners=_words("the a an my our your his her their its this that"),
    indefinite=_words("a an some another"),
    definite=_words("the my our"),
    of=_words("of and"),
    finite=_words(
        "is are am was were has have had can could will would should must do does did may might been be cannot"
    ),
    copulas=_words("is are am be become became"),
    having=_words("have has"),
    verbs=_words(
        "lives live moved relocated settled works started joined weighs costs cost leaves opens closes starts "
        "begins ends arrives departs takes got became turned went goes go rose fell dropped increased likes "
        "loves hates eats drinks plays smokes speaks drives studies quit stopped gave sold left cancelled "
        "retired died expires recovered no never reopened measures lasts needs uses earns takes reads writes "
        "knows prefers wants sent met visited paid bought said owns attends meets"
    ),
    schedules=_words(
        "leave leaves depart departs start starts begin begins end ends arrive arrives open opens close "
        "closes expires get wake"
    ),
    hours_of_day=_words("open opens close closes get wake"),
    likings=_words(
        "like likes love loves hate hates enjoy enjoys prefer prefers know knows speak speaks remember want miss"
    ),
    ends=re.compile(
        r"(?:have |has )?(?:quit|stopped|gave up|given up|got rid of|sold|left|resigned from|cancelled|canceled|lost|"
        r"deleted|ended|moved out of|moved away from|broke up with)\b"
    ),
    begins=re.compile(
        r"(?:have |has )?(?:(?:started|began|begun|took up|taken up)\b|(?:got|bought|adopted)(?= (?:a|an|another|"
        r"my|our|two)\b))"
    ),
    slots=(
        (
            "home",
            re.compile(
                r"(?:have |has |am |is |are )?(?:been )?(?:live|lives|living|based)(?: \w+){0,4}? (?:in|at) "
                r"(?:an? .*? (?:in|near|called) )?(?P<value>(?!an? ).+)"
            ),
        ),
        (
            "home",
            re.compile(
                r"(?:have |has )?(?:moved|relocated|settled)(?: from \w+(?: \w+)?| back| over| house| home| away|"
                r" down)*? (?:to|in|into) "
                r"(?:an? .*? (?:in|near|called) )?(?P<value>(?!an? |with ).+)"
            ),
        ),
        ("home", re.compile(r"(?:have|has) lived in (?P<value>.+?) (?:since|for)\b")),
        (
            "work",
            re.compile(
                r"(?:have |has |am |is |are )?(?:been )?(?:(?:work|works|working|employed|hired) (?:at|for|by)|"
                r"joined|(?:work|works|working) in (?=an? |the )|started(?: working| work)? (?:at|with|for)|"
                r"(?:started|got|found|took|accepted|have|has|hired) an? (?:new )?(?:job|position) (?:at|with|for|"
                r"in)) ?"
                r"(?P<value>.+)"
            ),
        ),
        ("workplace", re.compile(r"(?:work|works|working) in (?P<value>(?!an? |the ).+)")),
        (
            "profession",
            re.compile(
                rf"(?:(?:work|works|working) as|am|is|became|(?:have|has) become) an? "
                rf"(?P<value>(?:\w+ )?{PROFESSION})(?: (?:at|in|for|of) .*)?$"
            ),
        ),
        (
            "school",
            re.compile(
                r"(?:goes|go|started|attends|attend|entered|is) (?:to |in |at )?"
                r"(?P<value>(?:primary|secondary|middle|high|elementary|nursery|kindergarten|college|university)\b.*)"
            ),
        ),
    ),
    named=re.compile(r"(?:is |are |am )?(?:called|named)\b"),
    days=_words("monday tuesday wednesday thursday friday saturday sunday today tonight tomorrow weekend"),
    months={month: month for month in MONTHS},
    hours=_words("am pm oclock"),
    shifts=_words("moved postponed rescheduled pushed shifted delayed brought"),
    unspoken=_words("moved quit stopped started got sold living working became left turned relocated"),
    at_hour=_words("at"),
    stem=stem_english,
)

_FRENCH_AUXILIARY = r"(?:ai|as|a|avons|avez|ont|suis|es|est|sommes|etes|sont)"

FRENCH = Language(
    marks=_words(
        "le la les un une je j ma mon mes ses notre nos nous est et à de du des ne pas plus chez en au aux "
        "dans sur pour que se il elle ils elles s n d l ai suis sont leur désormais été"
    ),
    clauses=re.compile(
        r",? (?:et|mais|donc) (?=(?:je|j'|mon|ma|mes|nous|notre|nos|il|elle|le|la)(?:\b|(?<=')))|, (?=(?:je|j'|"
        r"mon|ma|nous))",
        re.IGNORECASE,
    ),
    asks=re.compile(
        r"\W*(?:est-ce|qu'est-ce|où|quand|qui|quel|quelle|quels|quelles|comment|pourquoi|combien|que|qu'|"
        r"peux-tu|pouvez-vous|dis-moi|donne|donnez|écris|écrivez|explique|expliquez|propose|proposez|aide|aidez|montre|"
        r"cherche|traduis|résume|fais|faites|s'il te plaît (?!note|retiens))\b"
    ),
    openings=re.compile(
        r"^(?:(?:salut|bonjour|au fait|en fait|bon|alors|correction|mise à jour|non|oui|pardon|désolée?|et|mais|aussi|"
        r"finalement|malheureusement|heureusement|bonne nouvelle|désormais|dorénavant|ces temps-ci|à présent|"
        r"maintenant|"
        r"s'il te plaît|s'il vous plaît)\b[\s,:!-]*)*"
        r"(?:(?:retiens|retenez|note|notez|sache|sachez|souviens-toi|souvenez-vous|rappelle-toi|je pense|je crois|"
        r"n'oublie pas)\b(?: que| qu')\s*)?",
        re.IGNORECASE,
    ),
    contractions=(
        (
            re.compile(
                r"\b(?:à partir de \w+|à présent|de nouveau|à nouveau|en ce moment|"
                r"(?:la semaine|le mois|l'an|l'année|l'été|l'hiver|cette semaine|ce mois)(?: (?:dernière?|"
                r"prochaine?|passée?))|"
                r"il y a \w+ (?:jours|semaines|mois|ans))\b",
                re.IGNORECASE,
            ),
            "",
        ),
        (re.compile(r"\baujourd'hui\b", re.IGNORECASE), "aujourdhui"),
        (re.compile(r"\b(qu|lorsqu|puisqu|jusqu|[ljdnmtsc])'", re.IGNORECASE), r"\1e "),
        (re.compile(r"\bnous nous\b", re.IGNORECASE), "nous"),
        (re.compile(r"\b(?:a|ont) lieu\b"), "commence"),
        (re.compile(r"(passée?|augmentée?|baissée?|montée?|descendue?) de \S*\d\S*(?: \w+)?(?= à\b)"), r"\1"),
    ),
    numbers=_pairs(
        "2=deux,deuxieme 3=trois,troisieme 4=quatre,quatrieme 5=cinq,cinquieme 6=six,sixieme 7=sept,septieme "
        "8=huit,huitieme 9=neuf,neuvieme 10=dix,dixieme 11=onze 12=douze 13=treize 14=quatorze 15=quinze 16=seize "
        "1=premier,premiere 20=vingt 30=trente 40=quarante 50=cinquante"
    ),
    negation=re.compile(r"\b(?:pas|jamais)\b|\bne\b.*\bplus\b"),
    change=re.compile(
        rf"\b(?:{_FRENCH_AUXILIARY}|ete) (?:ete )?(?:passe|deplace|reporte|repousse|avance|augmente|baisse|monte|"
        r"descendu|change|fixe|releve|reduit|prolonge|decale|devenu|porte|ramene|diminue)\w{0,2}\b"
    ),
    past=re.compile(
        r"(?:ai|as|a|avons|avez|ont) (?:\w+(?:é|ée|és|ées)|lu|vu|eu(?! \d+ ans)|bu|pris|mis|fait|dit|reçu|vendu|"
        r"couru|pu|dû|"
        r"su|écrit|offert|perdu|tenu|connu|vécu|cru|appris|compris|repris|suivi|fini|dormi|choisi|servi|conduit|"
        r"peint)\b"
        r"|(?:suis|es|est|sommes|êtes|sont) (?:all|arriv|n|tomb|mont|rest|retourn)(?:é|ée|és|ées)\b"
        r"|(?:suis|es|est|sommes|êtes|sont) (?:venu|parti|sorti|descendu|mort)(?:e|s|es)?\b|étai\w+|avai\w+|"
        r"(?!connai)\w{3,}(?:ais|ait|aient)\b"
    ),
    future=re.compile(
        r"\b(?:vais|vas|va|allons|allez|vont) \w+(?:er|ir|re)\b|\b(?:pense|compte|veux|veut|espere) \w+(?:er|ir|re)\b"
    ),
    wishes=_words(
        "aimerais aimerait voudrais voudrait souhaite envisage si peut-etre pourrait pourrais devrait devrais "
        "souhaiterais probablement"
    ),
    adverbs=_words(
        "maintenant desormais dorenavant finalement actuellement nouveau encore aussi deja vraiment tres "
        "toujours ne pas plus jamais hier recemment dernier prochain officiellement se me te juste"
    ),
    idle=_words(
        "le la les un une du des de ma mon mes ta ton tes sa son ses notre nos votre vos leur leurs à au aux "
        "en dans sur par pour et que qui ce cette ces est sont suis es sommes etes etre ete a ai as avons "
        "avez ont avoir eu sais sait peux peut je nous on il elle nouvelle nouvel ancien ancienne actuel "
        "actuelle depuis jusque jusqu fait fais passe passee deplace deplacee reporte reportee repousse "
        "repoussee avance avancee augmente baisse monte change fixe fixee releve reduit reduite prolonge "
        "decale decalee devenu devenue porte diminue chez comme y"
    ),
    pronouns=_words("il elle ils elles ce cela ca ceci celui celle qui lui tout"),
    speakers=_words("je nous on"),
    several=_words("nous on"),
    listeners=_words("tu vous"),
    others=_words("son sa ses leur leurs ton ta tes votre vos"),
    determiners=_words("le la les un une mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs ce cette ces"),
    indefinite=_words("un une des"),
    definite=_words("le la les mon ma notre"),
    of=_words("de du des et"),
    finite=_words(
        "est sont suis es sommes etes a ai as avons avez ont etait va vais vont peut peux sait fait font doit ete"
    ),
    copulas=_words("est sont suis es sommes etes devient fait"),
    having=_words("ai as a avons avez ont"),
    verbs=_words(
        "habite habitent vit vivent travaille travaillent part ouvre ferme commence finit termine arrive pese "
        "coute dure mange mangent boit boivent joue jouent aime aiment parle conduit roule fume prend gagne "
        "appelle appellent nomme mesure deteste adore decolle utilise apprend etudie reunit demande dort "
        "court possede demenage bosse bossent expire"
    ),
    schedules=_words(
        "part partent commence commencent finit termine arrive ouvre ouvrent ferme ferment decolle expire "
        "leve couche reveille"
    ),
    hours_of_day=_words("ouvre ouvrent ferme ferment leve couche reveille"),
    likings=_words("aime aimes aimons aiment adore deteste prefere connais connait parle parles parlent sais regrette"),
    ends=re.compile(
        rf"{_FRENCH_AUXILIARY} (?:arrete|abandonne|cesse|vendu|quitte|perdu|annule|resilie|debarrasse|demissionne|"
        r"laisse tomber|rompu)\w{0,2}\b"
    ),
    begins=re.compile(rf"{_FRENCH_AUXILIARY} (?:commence|adopte|achete|remis|remise|repris)\b"),
    slots=(
        (
            "home",
            re.compile(
                r"(?:habit(?:e|es|ons|ez|ent)(?! (?:seule?|loin|pres|avec|ici|la|ensemble|toujours)\b)(?: (?:à|au|"
                r"aux|en|dans|sur|chez)\b)?|"
                r"(?:vi(?:s|t|vons|vez|vent)|(?:suis|es|est|sommes) basee?s?) (?:à|au|aux|en|dans|sur|chez)) "
                r"(?:une? .*? à )?(?P<value>(?!une? ).+)"
            ),
        ),
        (
            "home",
            re.compile(
                rf"{_FRENCH_AUXILIARY} (?:demenage|emmenage|installe)\w{{0,2}} (?:.* )?(?:à|au|aux|en|dans|sur|chez) "
                r"(?:une? .*? à )?(?P<value>(?!une? ).+)"
            ),
        ),
        (
            "work",
            re.compile(
                rf"(?:(?:travaill|boss)(?:e|es|ons|ez|ent) (?:chez|pour|dans)|{_FRENCH_AUXILIARY} (?:ete )?"
                r"(?:(?:employe|embauche|engage|recrute)\w{0,2} (?:chez|par|dans|à)|rejoint|commence (?:chez|"
                r"à travailler chez)|"
                r"(?:trouve|commence|obtenu|decroche) une? (?:\w+ )?(?:emploi|travail|poste|boulot) (?:chez|dans|"
                r"à|pour))) "
                r"(?P<value>.+)"
            ),
        ),
        ("workplace", re.compile(r"(?:travaill|boss)(?:e|es|ons|ez|ent) (?:à|au|en) (?P<value>.+)")),
        (
            "profession",
            re.compile(rf"(?:travaill\w+ comme|(?:suis|est)(?: devenue?)?)(?: une?)? (?P<value>{METIER})$"),
        ),
        (
            "school",
            re.compile(
                r"(?:va|vais|entre|est entree?|est|a commence) (?:à|au|en|dans) "
                r"(?P<value>(?:le |la )?(?:ecole|college|lycee|universite|fac|cp|ce1|ce2|cm1|cm2|creche|"
                r"maternelle|primaire)\b.*)"
            ),
        ),
    ),
    named=re.compile(r"(?:appelle|appellent|nomme)\b"),
    days=_words("lundi mardi mercredi jeudi vendredi samedi dimanche aujourdhui demain week-end"),
    months=dict(zip(MOIS, MONTHS, strict=True)),
    hours=_words("heure heures"),
    shifts=frozenset(),
    unspoken=frozenset(),
    at_hour=_words("à"),
    stem=stem_french,
)
