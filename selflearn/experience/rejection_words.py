"""The words by which :mod:`selflearn.experience.rejections` knows a rejection; one regular expression per line.

They are matched against one sentence in lower case with single spaces. ``<name>`` stands for a part that several share.
"""

from __future__ import annotations

from typing import Final

#: Parts that may have other parts in them come first.
_PARTS: Final = {
    "wrong": "(?:wrong|incorrect|false|untrue|inaccurate|mistaken|outdated|out of date|nonsense|rubbish|garbage"
    "|bullshit|bogus|misleading|misinformation|obsolete|made up|a hallucination|irrelevant|off topic|backwards"
    "|the opposite|<not>(?:right|correct|true|accurate|it|even close|helpful|relevant|answering|an answer"
    "|what (?:i|we) (?!expect|thought)|the (?:one|question|answer|right|same|point|way|format|language)"
    "|how (?:it|this|that)))",
    "no": "(?:no|nope|nah)",
    "after no": r"(?:[,.;!…–—-]\s*|\s+)(?:no[,!. ]+)*",
    "end": r"\s*(?:[.,!;…–—-]|$)",
    "this": r"(?:that|this|it|the answer|all of (?:that|this)|your (?:last |first )?\w+)",
    "really": "(?:(?:just|simply|completely|totally|still|also|plain|clearly|obviously|factually|actually|quite|so"
    "|again|way|definitely|partly|partially|a bit|the|a|an|your) )*",
    "not": "not (?:at all |really |quite |exactly )*",
    "isn't": "(?:isn't|is not|wasn't|was not|ain't)",
    "doesn't": "(?:doesn't|does not|didn't|did not)",
    "you": "you (?:have |'ve |just |still |completely |totally |clearly |really |again )*",
    "already": "(?:actually |really |clearly |explicitly |already |just |only )*",
    "fine": "(?:fine|good|great|nice|ok|okay|perfect|working|helpful|clear|right|correct|quite|very)",
    "something else": "(?:(?:a |an )?(?:nice|good|great|fine|ok|okay|perfect|working|helpful|interesting|funny|cool"
    r"|clear|better|correct|right|quite|really|very|so|all|for|my|about|exactly|not|what)\b)",
    "das": r"(?:das|dies|es|die antwort|deine \w+|ihre \w+)",
    "du hast": r"(?:du hast|sie haben) (?:mich |das |meine frage |die frage )*(?:\w+ )?",
    "c'est": "(?:c'est|c'était|cela est|la réponse est|(?:ta|votre) réponse est|ce n'est|ça n'est|ce n'était)",
    "eso": "(?:eso|esto|la respuesta|(?:tu|su) respuesta)",
}


def any_of(block: str) -> str:
    """A regular expression for what one of the lines of a block matches."""
    text = "|".join(line for line in block.strip().splitlines() if not line.startswith("# "))
    for name, part in _PARTS.items():
        text = text.replace(f"<{name}>", part)
    return f"(?:{text})"


#: Words that may come before a rejection without changing what it says.
LEAD: Final = (
    "(?:"
    + any_of(
        r"""
hm+|um+|uh|oh|ah|lol|well|wait|hey|but|and|sorry|ugh|argh|unfortunately|ok|okay|yes|yeah|come on|listen
i'm sorry|i am sorry|i'm afraid|i am afraid|i think|i believe|afraid|thanks|thank you|no+|nope|nah|again
still|this time|nein|nee|nö|aber|doch|leider|also|äh+|entschuldigung|ich glaube|ich denke
non|mais|désolée?|pardon|je crois que|je pense que|perdón|lo siento|pero|creo que
"""
    )
    + r"[\s,.!?;…–—-]+|i'm afraid that |i think that )*"
)

#: What says that the answer is wrong, or is not what was asked for.
WRONG: Final = any_of(
    r"""
# English: about the answer
<this>(?:'s| is| was|'re| are| looks| seems| sounds) <really><wrong>\b
(?:i don't (?:think|believe) )?<this> <isn't> <really>(?:right|correct|true|accurate|it|even close|helpful|how)\b
(?:i don't (?:think|believe) )?<this> <isn't> <really>(?:what (?:i|we)|the (?:one|question|answer|right|way))\b
i don't (?:think|believe) <this>(?:'s| is| was) (?:right|correct|true|accurate)\b
<this> (?:makes|made) (?:no|zero|little) sense
<this> <doesn't> (?:make (?:any )?sense|answer|exist|address|match|follow)\b
(?:that|this|your \w+) <doesn't> (?:work|help|compile|run)\b(?! for (?!me))
(?:that |this |it )?<doesn't> (?:work|help|compile)<end>
(?:that|this|the) \w+ <doesn't> (?:exist|answer|make sense)\b
(?:that|this)(?:'s| is) [^.!?,]*, ?(?:but )?i (?:asked|wanted|meant|said|need)\b
(?:completely |totally |just |plain |all )*(?:wrong|incorrect|untrue|false|nonsense|rubbish|bullshit)(?: again)?<end>
wrong (?:answer|again|way|one|language|file|question|format|version|person|unit|year|date|number)\b(?! \w+ (?:is|are))
(?:way |much |far )?too (?:long|short|vague|complicated|formal)[.!]*$
(?:there (?:is|are|'s)|there's) no such\b|no such (?:command|option|function|file|thing|flag|module)
# English: about who answered
(?:you(?:'re| are)|your \w+ (?:is|are)) (?:\w+ )?(?:wrong|mistaken|incorrect|outdated|not (?:right|correct))\b
<you>(?:misunderst\w+|misread|missed|ignored|overlooked|confused|mixed up|invented|forgot (?!nothing|about it))
<you>made (?:a|an|this|that) (?:mistake|error|up)
<you>got (?:it|this|that|me|\w+ \w+) (?:\w+ )?(?:wrong|backwards|mixed up)
<you>did(?:n't| not) (?:answer|follow|read|listen|understand|do what|use|include|give|respect)
<you>(?:(?:don't|do not) (?:know|understand|get)|are (?:confusing|mixing|hallucinating|ignoring|repeating))
(?:please )?(?:re-?read|read) (?:my|the) (?:\w+ )?(?:question|message|instructions?|prompt|request)\b
# English: what was meant instead
(?:what )?(?:i|we) (?:actually |really |clearly |just |only )*meant(?! to | it\b| that (?:as|seriously)\b)\b
(?:i|we) <already>(?:asked (?:for|about|you)|told you|was asking|was talking)\b
i (?:actually |clearly |explicitly |already )*said(?: \w+){1,2}[.!]*$
<really><not>what (?:i|we) (?!expect|thought)
actually,? (?:it|that|this|they)(?:'s| is| was|'re| are) (?!<something else>)\S+(?: \S+){0,5}[.!]*$
it(?:'s| is) actually (?!(?:a )?<fine>)
# German
<das> (?:ist|war|sind) (?:\w+ ){0,3}?(?:falsch|unsinn|quatsch|inkorrekt|veraltet|verkehrt)\b(?! \w*gerechnet)
<das> (?:ist|war|sind) (?:\w+ ){0,3}?nicht (?:ganz )?(?:richtig|korrekt|wahr|das,? was|die frage|was|gemeint)\b
(?:das|dies|es) (?:stimmt|funktioniert|klappt|hilft) (?:mir |so |leider |aber |einfach |überhaupt |gar )*nicht(?! mehr)
(?:das|danach|so) (?:habe|hab|hatte) ich (?:so |doch |aber |gar )*nicht (?:gefragt|gemeint|gesagt|gewollt|verlangt)
(?:das|so) (?:meinte|wollte|meine) ich (?:so |doch |aber |gar )*nicht|so war das nicht gemeint
ich (?:meinte|sprach von)(?! (?:es|das) ernst)\b|ich habe? (?:doch )?nach .* gefragt
nicht (?:das|ganz|wirklich),? was ich (?!erwartet)
<du hast>(?:falsch|missverstanden|nicht (?:verstanden|beantwortet|gelesen))\b
<du hast>(?:übersehen|vergessen|ignoriert|verwechselt)\b
(?:du irrst|sie irren|da irrst|(?:du liegst|sie liegen|da liegst du|da liegen sie) falsch)\b
(?:falsch|quatsch|unsinn|blödsinn|stimmt nicht|leider falsch|immer noch falsch)<end>
eigentlich (?:ist|sind|heißt|lautet|war|waren|gilt) (?:es|das|die|der|sie)? ?(?!(?:ganz|sehr|recht|gut) )
(?:diesen|diese|dieses|so einen|so eine) \w+ gibt es (?:gar |so )?nicht
# French
<c'est> (?:\w+ )?(?:faux|fausse|inexact\w*|incorrect\w*|erroné\w*|n'importe quoi)\b
<c'est> (?:\w+ )?pas (?:du tout |tout à fait |vraiment )?(?:ça|cela|correct|exact|juste|vrai|bon|ce que)\b
<c'est> (?:\w+ )?pas (?:du tout |tout à fait |vraiment )?(?:la question|la bonne)\b
(?:ça|cela) ne (?:marche|fonctionne|répond|compile|m'aide) pas
je (?:voulais dire|parlais d\w+|parlais d'|n'ai pas (?:demandé|dit))|j'(?:ai|avais) demandé (?!à|si)
pas (?:du tout )?ce que (?:j'|je )
(?:tu te trompes|vous vous trompez|tu as tort|vous avez tort)\b
(?:tu as|vous avez) (?:mal (?:compris|lu)|oublié)|(?:tu n'as|vous n'avez) pas (?:compris|répondu|lu)
(?:faux|incorrect|inexact|n'importe quoi|mauvaise réponse)<end>
en (?:fait|réalité),? (?:c'est|ce sont|il s'agit) (?!(?:très|parfait|bien|bon|super|mieux|plus)\b)
# Spanish
<eso> (?:no es (?:correct|ciert|verdad|así|lo que|la )|es (?:falso|falsa|incorrect\w|mentira|err[óo]ne\w))
<eso> (?:está (?:mal|equivocad\w)|no (?:funciona|sirve|existe|responde|tiene sentido))
(?:es falso|es incorrecto|no es (?:correcto|cierto|verdad|así|eso|lo que (?!esper)))\b
(?:yo )?(?:me refería al?|me refiero al?|hablaba del?|quise decir|quería decir)\b
no (?:es )?lo que (?:pregunt|ped|quer|dij|necesit)\w+
(?:te equivocas|se equivoca|(?:estás|está) equivocad\w|te has equivocado|me (?:has )?entend\w+ mal)\b
no (?:me )?(?:has )?(?:entendiste|entendido|respondiste|respondido|leíste)\b|(?:has olvidado|olvidaste)\b
(?:incorrecto|incorrecta|falso|mentira|mal|respuesta equivocada)<end>
en realidad,? (?:es|son|está|se llama|fue|era) (?:de |del |el |la |los |las |un |una |\d)
"""
)

#: "No" and what may follow it, where it does not reply to a question.
NO: Final = r"(?:hm+[,. ]+)?" + any_of(
    r"""
<no><after no>(?:i (?:meant|mean|asked|said|wanted|need|want)|it(?:'s| is| was)|that(?:'s| is| was)|this is)\b
<no><after no>(?:you|wrong|not|the|my|our|we|they|he|she|there|in|try|again|read|actually|incorrect|look)\b
<no>[,;–—-]\s*\S|(?:no|nope)(?:[,.! ]+no)*[.!]*$|(?:no[ ,]+){2,}\S
(?:nein|nee|nö)[,.!;…–—-]+\s*\S|(?:nein|nee|nö)(?: (?:das|ich|es|die|der|nicht|falsch|du|sie|wir|in|auf)\b|[.!]*$)
non[,.!;…–—-]+\s*\S|non(?: (?:je|c'est|ce|la|le|pas|il|elle|tu|vous|en)\b|[ .!]*$)
no (?:es|era|fue|son|está) (?:el|la|los|las|en|eso|así|un|una)\b
"""
)

#: "The metal, not the planet": what they want, and what the answer has instead.
CONTRASTS: Final = (
    (
        r"(?P<wanted>.+?),? (?:and |und |et |y )?(?:not|nicht|kein|keine|pas|no)"
        r"(?: (?:the|a|an|in|den|das|die|la|le|el|un|une))? (?P<found>\w+)[.!]*"
    ),
    (
        r"(?:not|nicht|pas|no)(?: (?:the|den|das|die|la|le|el))? (?P<found>\w+)[,.]"
        r"(?: (?!that|this|it|i )(?P<wanted>.+))?"
    ),
)
#: "This is not a haiku", "butter isn't vegan", "I wanted JSON": what they asked for, and miss.
MISSES: Final = (
    r"(?:\w+ )?\w+(?:'s| is| are|'re) (?:not|no|nowhere near)(?: (?:even close to|in|a|an|the))? (?P<wanted>\w+)\b.*",
    r"(?:\w+ )?\w+ (?:isn't|aren't|ist kein|ist keine|n'est pas|no es)(?: (?:in|a|an|the|une?))? (?P<wanted>\w+)\b.*",
    r"(?:i wanted|i need|i want|ich wollte|je voulais|quería)(?: (?:it in|it to be|it|a|an|the))? (?P<wanted>\w+)[.!]*",
    r"(?:in |auf |en )?(?P<wanted>\w+)(?:,? (?:please|bitte|s'il te plaît|por favor))?!+",
)
#: "It's 28 days": another number than the answer's.
NUMBER: Final = r"(?:it's|it is|they're|es sind|es ist|son|es|c'est|ce sont) (?P<number>\d[\w.,]*?)(?: \w+)?[.!]*"
#: Words that questions and answers share whatever they are about.
COMMON: Final = "what how the that this it a an in to for my you me i is are of and or do does with"

#: "No, thanks", "no rush", "no, I didn't know": politeness, agreement or the end, whatever follows.
FRIENDLY: Final = any_of(
    r"""
thanks?|thank you|thx|cheers|perfect|great|fine|good|excellent|awesome|all|everything|enough|clear|worries
problem|questions?|need|rush|hurry|idea|clue|wonder|way|doubt|wait|more|kidding|joke|matter|bye|later|both
works?|worked|nothing|really|seriously|go on|continue|for me|not yet|please
i (?:don't|do not|didn't|did not|haven't|have no|can't|never|also|will|would|am)|i'[md]
danke|reicht|war's|wars|alles|passt|gut|super|prima|klar|genug|weiß|wusste|problem|nichts|wunder|noch nicht
merci|tout|parfait|bon|bien|ça va|ça suffit|rien|super|sais|savais
gracias|todo|nada|perfecto|bien|vale|sé|sabía|tengo|hace falta|te preocupes|muchos?|problema
"""
)
#: What follows thanks is another matter.
THANKS: Final = any_of(
    r"""
thanks?|thank you|thx|cheers|perfect|great|excellent|awesome|that's right|works|danke|super|prima|passt
merci|parfait|gracias|perfecto|genial
"""
)
#: "Not bad": it sounds like blame and is none.
PRAISE: Final = (
    r"(?:not|nicht|pas|no|no está) (?:(?:so|too|that|at all) )?(?:bad|wrong|schlecht|falsch verstehen|übel|mal)\b"
)
#: "Sorry, I meant …": they correct themselves, the answer fitted what they had asked.
OWN_MISTAKE: Final = (
    "(?:sorry|oops|whoops|my bad|my mistake|typo|pardon|ups|tut mir leid|mein fehler|perdón|désolée?)"
    r"\b[^.!?]*\b(?:i meant|i wanted|i should|ich meinte|je voulais dire|quise decir|quería decir|me refería|typo"
    r"|tippfehler)\b"
)
#: How sentences begin that ask instead of saying.
QUESTION: Final = (
    "(?:and |but |so |und |aber |et |mais |y |pero |¿)?"
    + any_of(
        r"""
what(?! i )|why|how|is|are|was|were|does|do|did|if|when|where|who|which|can|could|would|should|shall|will|may
warum|wieso|weshalb|wie|ist|sind|wenn|wann|wo|wer|welche\w?|kannst?|könn\w+|soll|ob|heißt das
qu'est|que|quel\w*|pourquoi|comment|est-ce|est|quand|où|qui|si|peux|peut|pouvez|dois
qué|por qué|cómo|cuándo|cuál\w*|dónde|quién|puedes?|podrías?|debo
"""
    )
    + r"\b"
)
#: A task with its material after the colon.
TASK: Final = (
    r"[^:]*\b"
    + any_of(
        r"""
translate|rewrite|rephrase|proofread|summari[sz]e|review|explain|say|says|reply|answers?|classify|correct
übersetze?n?|formuliere|korrigiere|erkläre|antworte|sagt?|traduis\w*|traduire|corrige\w*|explique\w*
résume\w*|traduce\w*|traducir|responde\w*|resume\w*|and this|next
"""
    )
    + r"\b[^:]*:"
)
#: How answers end that ask for something to work on: the next turn is that.
WANTS_TEXT: Final = (
    r"\b(?:paste|send|share|provide|upload|ready|schick\w*|sende\w*|füg\w*|envoie\w*|envoyez|collez|envía\w*|pega\w*)"
    r"\b[^.?!]*[.!]?\s*$"
)
