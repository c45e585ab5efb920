"""Words that carry no content of their own, in English, German, French and Spanish: what is asked stays without them.

Negations are not among them.
"""

from __future__ import annotations

from typing import Final

_WORDS: Final = """
a an the this that these those is are was were be been being am do does did doing have has had having can could will
would shall should may might must of in on at by for from to into with about as and or if when while i me my mine we
us our you your he him his she her it its they them their there here what which who whom whose where why how please
kindly thanks thank hi hello hey ok okay well so just then than any some get gets got per tell want need know let
lot during one s t

der die das den dem des ein eine einen einem einer eines und oder ich mich mir mein meine meinen meinem meiner wir
uns unser unsere du dein deine sie ihr ihre es ist sind war waren sein bin hat haben habe kann können könnte könnten
wird werden soll sollen muss müssen was welche welcher welches welchen wer wo wie wann warum wieso bitte danke hallo
im am auf aus bei mit von vom zu zum zur für über um denn mal doch

le la les une des du de d l et ou je j mon ma mes nous notre nos vous votre vos il elle ils elles est sont était être
ai avons avez ont que qu qui quoi quel quelle quels quelles où quand comment pourquoi à au aux en dans sur pour par
avec ce cette ces svp merci bonjour

el los las un unos unas y o yo mi mis nuestro su sus es son era ser está están tengo tiene qué quién cuál cuáles dónde
cuándo cómo con del al se este esta favor gracias hola puedo puede
"""

FUNCTION_WORDS: Final = frozenset(_WORDS.split())
