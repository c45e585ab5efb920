"""Boilerplate: phrases that stand in place of an answer, and fit any question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from selflearn.experience.texts import normalise

# Canned refusals. Sentences are matched whole, without case and the mark that ends them.

_SORRY: Final = "(i'm sorry|i am sorry|sorry|i apologi[sz]e|my apologies|unfortunately|i'm afraid|i am afraid)"
_CANNOT: Final = "( can't| cannot| can not| won't|'m unable to| am unable to|'m not able to| am not able to| couldn't)"
_DO: Final = "(help|assist|comply|do|answer|fulfill?|provide|discuss|engage|continue|process|respond)"
_ANYTHING: Final = (
    "(you|with|to|in|on|about|that|this|it|your|the|any|such|kind|type|of|requests?|questions?|topics?|content"
    "|information|conversation|assistance|right now|at this time|a|response|an answer|for)"
)
_MACHINE: Final = (
    "(ai|artificial intelligence|large language model|language model|computer program|virtual assistant|chatbot)"
)
_NOT: Final = r".*\b(can't|cannot|don't|do not|unable|not|no|without|won't)\b.*"
_PROGRAMS: Final = {
    "de": "als (eine? )?(ki|künstliche intelligenz|sprachmodell|ki-sprachmodell|großes sprachmodell)",
    "fr": "en tant (qu'ia|que modèle de langage|qu'intelligence artificielle)",
    "es": "como (modelo de lenguaje|una? (ia|inteligencia artificial|modelo de lenguaje))",
}
_REFUSE_DE: Final = "(dabei kann ich|das kann ich|ich kann (dir|ihnen|dabei|das|diese|darauf)).{0,40} nicht"
_DO_DE: Final = "(helfen|antworten|beantworten|erfüllen|weiterhelfen|tun|behilflich sein)"

#: What a canned answer says, sentence by sentence: at least one of these, and nothing but padding besides.
_REFUSALS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_SORRY}?[ ,]*(but )?(i|we){_CANNOT} {_DO}( {_ANYTHING})*",
        rf"({_SORRY}[ ,]*(but )?)?i (must|have to) (respectfully |politely )?(decline|refuse)( {_ANYTHING})*",
        rf"({_SORRY}[ ,]*(but )?)?as an? {_MACHINE}\b{_NOT}",
        rf"i('m| am) (just |only |merely )?an? {_MACHINE}\b{_NOT}",
        r"i (don't|do not) have (personal )?(opinions|feelings|beliefs|emotions|preferences|experiences)\b.{0,60}",
        rf"{_PROGRAMS['de']}\b.*\b(nicht|keine?n?)\b.*",
        rf"(es )?tut mir leid,? (aber )?{_REFUSE_DE}( {_DO_DE})?",
        rf"(je suis désolée?,? (mais )?)?{_PROGRAMS['fr']}\b.*\b(pas|aucune?)\b.*",
        r"je suis désolée?,? (mais )?je ne peux pas (vous aider|répondre|faire cela|fournir)( (avec|à) .{0,30})?",
        rf"(lo siento,? (pero )?)?{_PROGRAMS['es']}\b.*\bno\b.*",
        r"lo siento,? (pero )?no puedo (ayudar(te|le)?|responder|hacerlo|hacer eso)( (con|a) .{0,30})?",
    )
)
_REGRET: Final = "(but|so|very|really|for|the|any|about|that|this|sorry|your|confusion|inconvenience|misunderstanding)"
_OFFER: Final = "(feel free to|don't hesitate to|let me know if|if you have any)"
_FURTHER: Final = "(else|other|more|further|different|questions?|help|ask|assist)"
_PADDING: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_SORRY}( {_REGRET})*",
        r"(is there )?(anything|something) else( that)?( i can (help|assist|do)| you('d like| need)).{0,60}",
        rf"(please )?{_OFFER}.{{0,40}}{_FURTHER}.{{0,80}}",
        r"(please )?(try|ask|rephrase)( again| later| another| a different| your| question| request| topic)*",
        r"how (can|may) i (help|assist) you( today| further)?",
        r"(thank you|thanks) for (your )?(understanding|patience|reaching out|contacting us|question)",
        r"certainly|of course|sure|great question|good question|i hope this helps",
    )
)

# What web pages say in place of their content.

_DISTRUST: Final = (
    r"(enable|turn on) (javascript|cookies).{0,80}\b(continue|view|use|run|load)\b"
    r"|checking (if the site connection is secure|your browser before)|verify(ing)? (that )?you are (a )?human"
)
#: Its name, how it reads, and what a question is about that may be answered with it.
_BANNERS: Final = (
    (
        "a cookie banner",
        re.compile(r"\b(uses?|using) cookies\b.*\b(accept|agree|consent|preferences|privacy|experience|settings)"),
        re.compile("cookie|banner|consent|website"),
    ),
    ("placeholder text", re.compile("lorem ipsum dolor sit amet"), re.compile("lorem|ipsum|placeholder|dummy|latin")),
    (
        "what a web page says to a browser that it distrusts",
        re.compile(_DISTRUST),
        re.compile("javascript|cookie|browser|captcha|human|page|website"),
    ),
)
#: A longer answer says something besides.
_MAX_BANNER: Final = 800
_QUOTES: Final = str.maketrans("‘’“”", "''\"\"")


def boilerplate_of(question: str, answer: str) -> str | None:
    """Which boilerplate an answer is, as a sentence; None if it says something. ``question`` is normalised."""
    text = normalise(answer).translate(_QUOTES)
    if _is_canned([part.strip(" ,;:-") for part in re.split(r"[.!?]+(?:\s+|$)", text)]):
        return "the answer is nothing but canned phrases"
    if len(text) > _MAX_BANNER:
        return None
    found = (name for name, banner, about in _BANNERS if banner.search(text) and not about.search(question))
    return next((f"the answer is {name}" for name in found), None)


def _is_canned(sentences: Sequence[str]) -> bool:
    others = [one for one in sentences if one and not any(pattern.fullmatch(one) for pattern in _PADDING)]
    return bool(others) and all(any(pattern.fullmatch(one) for pattern in _REFUSALS) for one in others)
