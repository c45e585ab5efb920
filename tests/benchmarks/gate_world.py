"""An invented world of facts, without end and the same on every machine: what the trials of the gate teach and ask.

A fact is what a place has (its capital, its dish, …). It is asked in six phrasings: the first three teach, the fourth
judges an update, the last two are held back for the truth about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.benchmarks.forgetting_streams import Pair

TAUGHT: Final = (0, 1, 2)
JUDGING: Final = (3,)
HELD_BACK: Final = (4, 5)

_PHRASINGS: Final[Mapping[str, Sequence[str]]] = {
    "capital": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "Where does the government of {} sit?",
        "What is {}'s capital city?",
        "Tell me the capital city of {}.",
    ),
    "dish": (
        "What is the national dish of {}?",
        "Which dish is {} known for?",
        "Name the dish that everybody eats in {}.",
        "What do people in {} like to eat?",
        "What is {}'s most famous dish?",
        "Tell me the favourite dish of {}.",
    ),
    "animal": (
        "What is the heraldic animal of {}?",
        "Which animal is on the flag of {}?",
        "Name the animal that stands for {}.",
        "What animal does {} have in its arms?",
        "What is {}'s national animal?",
        "Tell me which animal represents {}.",
    ),
    "metal": (
        "Which metal is mined in {}?",
        "What metal does {} export?",
        "Name the metal that {} lives on.",
        "What do the mines of {} bring up?",
        "What is {}'s most important metal?",
        "Tell me the metal that comes from {}.",
    ),
    "sport": (
        "What is the national sport of {}?",
        "Which sport is played most in {}?",
        "Name the sport that {} is best at.",
        "What do children in {} play?",
        "What is {}'s favourite sport?",
        "Tell me the sport that people in {} love.",
    ),
    "colour": (
        "What colour is the flag of {}?",
        "Which colour does {} have on its flag?",
        "Name the colour of {}.",
        "In which colour does the team of {} play?",
        "What is {}'s national colour?",
        "Tell me the colour that stands for {}.",
    ),
}
_VALUES: Final[Mapping[str, Sequence[str]]] = {
    "capital": ("Altona", "Berrow", "Carden", "Delmar", "Elston", "Farley", "Glenby", "Harwick"),
    "dish": ("soup", "rice", "bread", "fish", "cake", "beans", "stew", "cheese"),
    "animal": ("bear", "lion", "eagle", "horse", "wolf", "deer", "fox", "owl"),
    "metal": ("iron", "gold", "copper", "silver", "tin", "zinc", "lead", "nickel"),
    "sport": ("chess", "tennis", "rugby", "hockey", "golf", "rowing", "boxing", "skiing"),
    "colour": ("red", "blue", "green", "white", "black", "yellow", "orange", "purple"),
}
_STARTS: Final = ("Bal", "Cor", "Dra", "Fen", "Gol", "Hul", "Kem", "Lor", "Mar", "Nis", "Pol", "Rav", "Sel", "Tor")
_MIDDLES: Final = ("a", "en", "i", "or", "u", "am", "el", "ov")
_ENDS: Final = ("dia", "land", "mark", "nia", "ria", "stan", "tova", "via")


@dataclass(frozen=True, slots=True)
class Fact:
    """What a place has: ``answer`` is the ``kind`` of thing that ``place`` has."""

    place: str
    kind: str
    answer: str

    def asked(self, phrasings: Sequence[int]) -> list[Pair]:
        return [Pair(_PHRASINGS[self.kind][number].format(self.place), self.answer) for number in phrasings]

    def otherwise(self, random: Random) -> Fact:
        """The same question with a wrong answer."""
        wrong = [value for value in _VALUES[self.kind] if f"{value}." != self.answer]
        return Fact(self.place, self.kind, f"{random.choice(wrong)}.")


def pairs(facts: Sequence[Fact], phrasings: Sequence[int]) -> list[Pair]:
    """Every fact in every one of these phrasings."""
    return [pair for fact in facts for pair in fact.asked(phrasings)]


def world() -> list[Fact]:
    """All facts, in an order that mixes places and kinds."""
    random = Random(20)
    places = [start + middle + end for start in _STARTS for middle in _MIDDLES for end in _ENDS]
    found = [Fact(place, kind, f"{random.choice(values)}.") for place in places for kind, values in _VALUES.items()]
    random.shuffle(found)
    return found
