"""Words that concern people, English and French, chosen by this project: a gate for the check, no judgement of anybody.

One term between commas; a term is a regular expression on whole words.
"""

from typing import Literal

Language = Literal["en", "fr"]


def _terms(text: str) -> tuple[str, ...]:
    return tuple(term.strip() for term in text.replace("\n", " ").split(",") if term.strip())


TECHNICAL = _terms(r"""
    (?:data |signal |critical )?race[- ]conditions?, data races?, races? to the (?:bottom|lock),
    man pages?, man[- ]in[- ]the[- ]middle, middle[- ]man, man[- ](?:hours?|days?|months?),
    (?:fe)?male[- ](?:headers?|connectors?|pins?|plugs?|sockets?|jumpers?|threads?|terminals?|contacts?),
    (?:headers?|connectors?|pins?|plugs?|sockets?) (?:fe)?males?,
    minority[- ](?:carriers?|charges?), pulse[- ]shape discrimination, (?:signal|noise|frequency) discrimination,
    discriminat(?:e|es) between (?:the )?(?:signals?|classes|values|inputs?), gay[- ]lussac,
    clés? étrangères?, (?:classes?|cartes?|processus|n(?:œ|oe)uds?) (?:filles?|mères?), filles? d'attente
""")
"""Phrases of engineering that borrow words for people."""

_ORIGINS = (
    "african|american|arab|asian|black|british|brown|chinese|english|french|german|indian|irish|italian|japanese|"
    "latin|mexican|polish|romani|russian|spanish|turkish|white"
)
_FOLK = (
    "people|persons?|men|man|women|woman|kids?|children|boys?|girls?|couples?|workers?|drivers?|neighbou?rs?|"
    "colleagues?|famil(?:y|ies)"
)

GROUPS: dict[Language, tuple[str, ...]] = {
    "en": _terms(rf"""
        wom[ae]n, m[ae]n, girls?, boys?, females?, males?, genders?, sexes, sexis[mt]s?, transgender, non-?binary,
        gays?, lesbians?, bisexuals?, homosexual(?:s|ity)?, lgbtq?\+?,
        rac(?:e|es|ial|ially|ism|ist|ists), ethnic(?:ity|ities)?, (?:{_ORIGINS}) (?:{_FOLK}), people of colou?r,
        minorit(?:y|ies), immigrants?, migrants?, refugees?, foreigners?, asylum seekers?, nationalit(?:y|ies),
        africans, americans, arabs, asians, germans, hispanics?, italians, latinos?, latinas?, mexicans, russians,
        turks, romani, indigenous, gyps(?:y|ies),
        (?:couples?|famil(?:y|ies)|neighbou?rs?|colleagues?) from,
        the (?:french|english|british|chinese|japanese|irish) (?:are|were|tend),
        muslims?, islam(?:ic)?, jew(?:s|ish)?, judaism, christians?, catholics?, hindus?, buddhists?, atheists?,
        religio(?:n|ns|us), antisemiti(?:c|sm),
        elderly, (?:old|older|young|younger|poor|rich|fat|deaf|blind|disabled) (?:{_FOLK}), teenagers?, millennials?,
        boomers?, ageis[mt], disabilit(?:y|ies), wheelchairs?, autis(?:m|tic), obese, overweight, homeless,
        working class, stereotypes?, prejudices?, discriminat(?:e|es|ion|ory)
    """),
    "fr": _terms(r"""
        femmes?, hommes?, filles?, garçons?, sexis(?:me|tes?), transgenres?, lesbiennes?, homosexuel(?:s|le|les)?,
        racis(?:me|tes?), racia(?:l|le|les|ux), ethni(?:e|es|que|ques), les noirs, les blancs,
        personnes? de couleur, minorités?, immigré(?:s|e|es)?, migrants?, réfugié(?:s|e|es)?, étrang(?:ers|ères),
        nationalités?, les africain(?:s|es), les asiatiques, les arabes, maghrébin(?:s|e|es)?,
        marocain(?:s|e|es)?, algérien(?:s|ne|nes)?, tunisien(?:s|ne|nes)?,
        roumain(?:s|e|es)?, polonais(?:e|es)?, les roms, tziganes?,
        les (?:allemand|anglais|américain|chinois|italien|russe|turc)s?,
        musulman(?:s|e|es)?, islam(?:ique)?, jui(?:f|fs|ve|ves), chrétien(?:s|ne|nes)?, catholiques?, athées?,
        religi(?:on|ons|eux|euse|euses), antisémit(?:e|es|isme),
        personnes âgées, vieillards?, les jeunes, adolescent(?:s|e|es)?, handicap(?:és?|ées?|s)?, autis(?:me|tes?),
        obèses?, les pauvres, les riches, sans-abri, stéréotypes?, préjugés?, discrimin(?:ations?|er|atoires?)
    """),
}
"""Terms for groups of people: one is enough."""

PERSONS: dict[Language, tuple[str, ...]] = {
    "en": _terms(r"""
        people, persons?, he, she, him, her, husbands?, wi(?:fe|ves), mothers?, fathers?, nurses?, doctors?,
        secretar(?:y|ies), boss(?:es)?, employees?, applicants?, tenants?, neighbou?rs?, colleagues?, teachers?,
        students?, suspects?, politicians?
    """),
    "fr": _terms(r"""
        gens, personnes?, mari, épouse, mères?, pères?, infirmi(?:er|ers|ère|ères), médecins?, secrétaires?,
        patron(?:s|ne|nes)?, employé(?:s|e|es)?, locataires?, voisin(?:s|e|es)?, collègues?,
        enseignant(?:s|e|es)?, étudiant(?:s|e|es)?, politicien(?:s|ne|nes)?
    """),
}
"""Terms for single persons and roles: they count beside a judgement."""

JUDGEMENTS: dict[Language, tuple[str, ...]] = {
    "en": _terms(r"""
        lazy, stupid, dumb, smarter, intelligen(?:t|ce), inferior, superior, criminals?, violent, emotional,
        hysterical, honest, dishonest, trustworthy, deserves?, hire, hiring, fire (?:him|her), guilty, suspicious,
        incompetent, (?:less|more) capable, should not be allowed
    """),
    "fr": _terms(r"""
        paresseu(?:x|se|ses), stupides?, idiot(?:s|e|es)?, intelligen(?:t|ts|te|tes|ce), criminel(?:s|le|les)?,
        violent(?:s|e|es)?, avares?, émoti(?:f|fs|ve|ves), hystériques?, honnêtes?, malhonnêtes?, mérit(?:e|ent),
        embaucher, coupables?, incompétent(?:s|e|es)?, moins capables?
    """),
}
"""Words that judge a person."""
