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

WEAK_WORDS = {
    "english": """
        able about actually ago almost already also although always another anybody anyone anything anyway around
        ask asked away back became become becomes begin besides best better bit bring brings came cannot certain
        come comes coming could did different done each either else enough even ever every everybody everyone
        everything far feel felt find first follow former found four full gave get gets getting give given gives
        giving go goes going gone good got great had happen happened happens hardly hello hers hey however im
        indeed instead into just keep keeps kept kind knew know known knows last later least left less let lets
        like likely little long look looked looking looks lot made main make makes making many matter may maybe
        mean means might mine moreover mostly much must near nearly need needed needs never new next nobody none
        nothing now number often oh ok okay old one ones onto others otherwise ought part perhaps please possible
        probably put puts quite rather really right said saw say saying says second see seem seemed seems seen
        several shall show shows simply since someone something sometimes somewhere soon start still stuff such
        sure take taken takes taking tell thank thanks thing things think though thought three thus time times
        today together told tomorrow too took toward tried tries try trying turn turned two unless unlike
        upon us use used uses using usually various via want wanted wants way ways well went whatever whenever
        whereas wherever whether whole whose without within wonder work works would yeah year yes yesterday yet
    """,
    "french": """
        ai aie ainsi aller allez allons alors apres assez aucun aucune hui aura aurait autant autre
        autres avaient avais avait avant avoir beaucoup bien bon bonne bonjour bonnes bons car ceci celle celles
        celui cent certain certaine certains cet cette ceux chaque chose choses combien contre dehors deja demain
        depuis derriere dernier derniere des dessous dessus deux devant devoir devrait devrais dire dit doit dois
        doivent donner donne dont durant encore enfin ensuite entre envers est-ce etait ete etre eux fais faisait
        faire fait fallait faudra faudrait faut fera fois font grand grande gros hier hors ici ils jamais jusqu
        jusque juste la-bas lors lorsque lui maintenant mal malgre meilleur merci met mettre mieux mien mille moins
        mois moment ne ni nom non notre nouveau nouvelle nul oui ouvert par parce parfait parfois parler parmi
        passe pendant petit petite peu peut peuvent peux pire plein plusieurs plutot possible pourquoi pourra
        pourrait pouvait pouvez pouvoir premier premiere prendre prends prend presque pres pris puis puisque
        quelqu quelque quelques rien sais sait sans sauf savoir sera serait seul seule seulement sien sinon soi
        soit sont sorte sous souvent suis suite sur surtout tant tel telle tellement temps tenir tous tout toute
        toutes toujours trois trop trouver utiliser va vais vas venir vers veut veulent veux vient voici voila
        voir vois voit vont voulait vouloir vraiment vrai
    """,
    "german": """
        aber acht allein allem allerdings alles also andere anderen anderer anderes ans auch bald beide beiden beim
        bereits besonders besser beste bin bis bisschen bleibt braucht brauche brauchen danach dabei dadurch dafur
        dagegen daher dahin damals damit danke dann daran darauf daraus darf darin daruber darum davon davor dazu
        denn dennoch deshalb deswegen doch dort drei durfen eben eigentlich einander eines einfach einige einmal
        endlich erst erste ersten etwa etwas fast finde finden fruher funf ganz ganze geben gegen geh gehen geht
        gemacht genau genug gerade gern gerne gesagt gestern gewesen ging gleich gross grosse gut gute guten habe
        haben halt hast hatte hatten heisst herum heute hier hin hinter immer irgendwie ja jede jedem jeden jeder
        jedes jedoch jemand jetzt kann kannst kaum kein keine klar klein komme kommen kommst kommt konnte konnten
        lang lange lassen lasst leider letzte lieber liegt los machen mache machst macht man manchmal mehr mein
        meist menge mich mir mit mochte moglich morgen muss mussen musst nach nachste naturlich neben nehmen
        nein neu neue neuen nichts nie niemand nimmt noch nun nur oben oder oft ohne paar sagen sagt schon sehen
        sehr seit selbst sicher sieht sogar soll sollen sollte sonst stehen steht statt tag tage trotzdem tun tut
        uberhaupt um und ungefahr unten unter viel viele vielleicht vier vom von vor vorher war waren warst weg
        wegen weil weiss weiter welche wenig wenigstens wenn werde werden wieder will wirklich wissen wohl wollen
        wollte zehn ziemlich zu zuerst zum zur zusammen zwar zwei zwischen
    """,
    "spanish": """
        ademas ahora ahi algo alguien algun alguna algunas alguno algunos alli ambos antes apenas aqui asi aun
        aunque ayer bastante bien buen buena bueno buenos cada casi cierto claro cosa cosas creo cualquier cuyo
        dar debe deben decir dejar demas demasiado dentro desde despues detras dia dias dice dicen dijo dos durante
        ella ellas ellos embargo encima encontrar ese esa eso esos esas este estas estar estaba estaban estoy
        estos fuera gente gracias gran grande haber habia hablar hace hacen hacer hacia hago haya hasta hecho hola
        hoy igual incluso ir jamas junto llamar llega llevar luego lugar mal manana mayor mejor menos mientras
        mio mismo misma modo momento mucha muchas mucho muchos muy nada nadie necesita necesito ninguna ninguno
        nuestra nuestro nueva nuevo nunca ocho otra otras otro otros para parece parte peor pequeno pero poco
        podemos poder podria poner porque primera primero pronto pueda puede pueden puedo pues puesto quedar
        quiere quieren quiero quiza sabe saber sacar sale sea sean segun segundo seis ser seria siempre sido
        siete siguiente sin sino sobre solamente solo somos son soy suyo tal tampoco tanto tarde tener tenemos
        tenia tengo tercero tiempo tiene tienen toda todas todavia todo todos tomar trabajar traer tras tres
        ultimo una unas uno unos usar usted ustedes va vamos van varios veces ver vez viene voy ya
    """,
    "italian": """
        abbastanza adesso alcuni allora almeno altra altre altri altro ancora anche andare andato anni anno appena
        assai avanti avere aveva bella bello bene bisogna buon buona buono certo ciao ciascuno cinque circa
        comunque cosi cui dare davanti davvero dentro deve devo dice dietro dire dopo dopodomani dove due
        dunque durante ecco entro era erano essere fa faccio fanno far fare fatto finche fino forse fuori gia
        giorni giorno giu grande grazie ieri infatti insieme intanto invece lontano lungo mai male meglio meno
        mentre mettere mio modo molta molte molti molto momento nessuno niente nostra nostro nulla nuova nuovo
        ogni oggi oltre oppure ora ormai parte pero persino piccolo poca pochi poco poi posso potere potrebbe
        prendere presto prima primo proprio puo pure qualche qualcosa qualcuno qualsiasi quasi quattro qui
        quindi quello questa queste questi questo quanto sapere sara sarebbe secondo sei sempre senza sette
        si sia siamo siete solito solo sono sopra sotto spesso stata stato stesso su subito tanta tanti tanto
        tempo trovare tre troppo tutta tutte tutti tutto ultimo una usare uno va vado vari vecchio vedere venire
        verso via viene vicino vogliamo voglio volere volta volte vuole
    """,
    "portuguese": """
        agora ainda alem algo alguem algum alguma algumas alguns ali amanha ambos antes apenas apos aqui assim ate
        atraves bastante bem boa bom cada certeza certo cima cinco coisa coisas comigo conseguir contra contudo
        daqui dar debaixo demais dentro depois desde dessa desse desta deste deve devem dever dia dias disse
        diz dizer dois duas durante embora enquanto entao entre era eram esse essa esses essas estar estava
        estou faco falar faz fazem fazer feito ficar fica foi fora foram geral grande hoje ir isso isto ja jamais
        junto lado lhe logo longe lugar maior mal melhor menor menos mesma mesmo meu minha muita muitas muito
        muitos nada nenhum nenhuma ninguem nosso nova novo nunca numa obrigado oito ola ontem outra outras outro
        outros para parece parte pela pelo pequeno perto pode podem poder pois possivel posso pouca pouco poucos
        precisa preciso primeira primeiro proprio proxima proximo quase quatro quer quero sabe saber seis sem
        sempre sendo ser sera seria sete sido sim sob sobre somente sou tal talvez tambem tanto tao tarde tem
        tempo tenho ter teve tinha toda todas todavia todo todos tres tudo ultimo umas usar uns vai vamos varios
        vem ver vez vezes vir voce voces vou
    """,
    "dutch": """
        aan aantal achter af alle alleen allemaal alles als altijd ander andere anderen begin beide beter bijna
        binnen boven buiten daar daarom dacht dan dank dat deze die dichtbij ding dingen dit doe doen doet door
        drie drop echt een eens eerst eerste eigenlijk elk elke enkel er erg even gaan gaat ga gauw gedaan geef
        geeft geen gegaan gehad geven geweest gewoon ging gisteren goed goede graag groot grote haar had hadden
        heb hebben hebt heeft heel helemaal hem hen hetzelfde hier hij hoor hun iedereen ieder iemand iets ik
        inderdaad is ja jaar jaren jou jouw jullie kan keer klein kleine komen komt kon kunnen kunt laat laatste
        lang langs laten leuk liever maak maakt maar maken man meer meest men met mijn minder misschien moest
        moet moeten mogelijk morgen na naar naast natuurlijk nee neem nemen net niemand niet niets nieuw nieuwe
        nodig nog nooit nu ofwel om omdat omhoog onder ons onze ook op oude over paar precies samen sinds snel
        soms staan staat steeds te tegen terug terwijl tijd toch toen tot tussen twee uit uur vaak van vandaag
        veel ver vier vind vinden volgende voor vooral voorbij vorige vrij was wel weer weet weinig werd werden
        weten wil willen worden wordt zag zal ze zeer zegt zeggen zei zelf zelfs zet zich zie zien zijn zo zoals
        zonder zou zouden zullen
    """,
    "russian": """
        без бы был была были было быть важно вам вами вас ваш весь вместе вниз вообще вот время все всегда всего
        всем всех вчера где говорил говорит говорить год года давай даже давно дай два две дело день до должен
        должна должны достаточно другая другие другой его едва если есть еще жаль завтра затем зачем здесь знаю
        знает знать из-за или иметь иногда именно каждый кажется как кстати кроме лет лишь лучше люблю мало меня
        мимо мне много могу могут мог может можно мой моя мы надо наверное навсегда над нам нами нас наш наша
        наши него некоторые нельзя несколько никогда никто ничего новая новый нужна нужно нужны обычно один одна
        одно около опять особенно от очень первый перед по под пожалуйста пока пор после потом потому почему
        почти при про просто против пусть раз разве рано рядом сам сама сами самый самая свой своего свою своя
        себе себя сегодня сейчас сказал сказала скоро слишком снова со совсем сразу среди стал стала стать так
        такая также такие такой там твой тебе тебя тем теперь тобой тогда того тоже только том тот три тут уже
        хорошо хотел хотела хоть хочет хочу хотя часто через что-то чтобы чуть эта эти это этого этой этом этот
        я-то
    """,
    "arabic": """
        آخر ابدا أبدا أثناء أحد أحيانا إذا أصبح أكثر ألا أمام أمس أنا أنت أنتم إنه أو أول أي أيضا أين بدون بعد
        بعض بل بين تحت تلك تم ثم جدا جميع جيد جيدا حتى حول حيث حين خارج خلال داخل دائما دون ذلك رائع سوف شيء
        صار ضد ضمن عدة عليه عليها عند عندما عندي غدا غير فقط فوق فيه فيها قبل قد قليل كان كانت كثير كثيرا كل
        كما كنت لأن لدي لدى لديه لذلك لست لقد لكن لكنه لكم لنا له لها لهذا ليس ليست مثل مرة معك معه معي منذ منه
        منها نحن نعم نفس هذا هذه هم هنا هناك هو هي يا يجب يكون يمكن يوجد يوم اليوم الآن الذي التي الذين كيف
        أريد تريد يريد ستكون سيكون نستطيع يستطيع
    """,
    "greek": """
        αλλα αλλη αλλο αλλοι αλλος αμεσως αν ανα αντι απ απο αργα αρκετα αυριο αυτα αυτες αυτη αυτην αυτο αυτοι
        αυτον αυτος αυτου αφου βεβαια γι για γινει γινεται γυρω δε δεν δηλαδη διπλα δυο δω εαν εγω εδω ειμαι
        ειμαστε ειναι ειπε εισαι ειτε ειχα ειχαμε ειχαν ειχε εκει εκεινο εκεινος εκτος ελα εμας εμεις ενα ενας
        εξω επειδη επισης επομενο εσεις εσυ ετσι εχει εχεις εχετε εχουμε εχουν εχω ηδη ημουν ηταν ηθελα θα θελει
        θελω ιδια ιδιο ισως καθε καθολου και κακο καλα καλη καλο καλυτερα καμια κανει κανεις κανενα κανω καποια
        καποιο καποιος κατα κατι κατω κιολας κοντα λιγα λιγο λοιπον μα μαζι μακρια μαλλον μας με μεγαλη μεγαλο
        μερα μεσα μετα μεχρι μη μην μηπως μια μικρο μιση μολις μονο μου μπορει μπορω μπροστα ναι να νεα νεο ξανα
        ολα ολη ολο ολοι ομως οποια οποιο οποιος οπου οπως οσα οσο οταν οτι ουτε οχι παλι παντα πανω παρα παρολο
        περιπου περυσι πηγα πια πιο πισω πολλα πολλες πολυ πρεπει πριν προς πρωτα πρωτη πρωτο πρωτος σαν σας σε
        σημερα σιγουρα σου στα στη στην στις στο στον στους στων συνηθως συχνα σχεδον τα τελικα τες τετοιο τη την
        της τις το τοσο τοτε του τους τρια τωρα των υπαρχει υπαρχουν υστερα χθες χτες χωρις
    """,
}
"""Words that are no stop words where answers are looked for, but name nothing: they are in no key phrase."""

CUTS = """
    什么时候 什么地方 为什么 什么样 什么 怎么样 怎么 怎样 多少 哪里 哪儿 哪个 哪位 哪家 哪些 哪 谁 几 吗 呢 吧
    啊 呀 嘛 的 了 是 我们 你们 他们 她们 我 你 您 他 她 它 这 那 什麼時候 什麼 為什麼 怎麼 哪裡 誰 幾 嗎 這 們
    いつ どこ だれ 誰 何 なに なぜ どう どの どんな いくら ですか ますか ました ません ます です でした だった
    から まで より ので けど という って ている でいる は が を に で と へ も の か ね よ
"""
"""What Chinese and Japanese passages are cut at: questions, pronouns, particles and endings."""

PARTICLES = "은 는 이 가 을 를 에 에서 에게 한테 의 도 로 으로 와 과 하고 까지 부터 마다 이랑 랑"
"""What hangs on Korean nouns."""
