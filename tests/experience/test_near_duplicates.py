"""Near duplicates: alike questions share a cluster, whoever asks first, and finding them costs no more later on."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasketch
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selflearn.config import ExperienceSettings
from selflearn.experience.curation import near_duplicates
from selflearn.experience.curation.function_words import FUNCTION_WORDS
from selflearn.experience.curation.near_duplicates import alike, index, place, unindex
from selflearn.store import Store, database_path
from tests.experience.question_pairs import DIFFERENT, SAME
from tests.stores import Bench

SIMILARITY = ExperienceSettings().near_duplicate_similarity
LOWEST = 0.5
#: Words that share few runs of letters.
WORDS = tuple(
    re.findall(
        r"\w+",
        """
        amber basket candle desert engine forest garden harbour island jacket kettle ladder marble needle orange pencil
        quarry ribbon saddle temple umbrella valley window yellow zebra anchor bridge copper dragon feather glacier
        hammer insect jungle kitchen lantern mirror napkin oyster pepper rocket silver turtle violin walnut
        """,
    )
)


@dataclass
class Questions:
    """The questions of one learner, as rows of examples in the index."""

    store: Store
    learner: str
    similarity: float = SIMILARITY

    def add(self, text: str) -> int:
        return self.store.write(lambda connection: self._add(connection, text))

    def add_all(self, texts: Sequence[str]) -> list[int]:
        return self.store.write(lambda connection: [self._add(connection, text) for text in texts])

    def _add(self, connection: sqlite3.Connection, text: str) -> int:
        messages = [{"role": "user", "content": text}]
        placed = place(connection, self.learner, messages, self.similarity)
        row = connection.execute(
            "INSERT INTO examples (learner, conversation, kind, objective, messages, target, digest, cluster,"
            " signature, state, source, created_at)"
            " VALUES (?, 'c', 'correction', 'supervised', ?, 'x', hex(randomblob(16)), ?, ?, 'fresh', 'local', 0)",
            (self.learner, json.dumps(messages), placed.cluster, placed.signature),
        )
        example_id = int(row.lastrowid or 0)
        index(connection, example_id, placed.signature)
        return example_id

    def remove(self, example_id: int) -> None:
        signature = self.store.read("SELECT signature FROM examples WHERE id = ?", (example_id,))[0]["signature"]

        def work(connection: sqlite3.Connection) -> None:
            unindex(connection, example_id, signature)
            connection.execute("DELETE FROM examples WHERE id = ?", (example_id,))

        self.store.write(work)

    def clusters(self) -> dict[int, str]:
        sql = "SELECT id, cluster FROM examples WHERE learner = ?"
        return {row["id"]: row["cluster"] for row in self.store.read(sql, (self.learner,))}

    def together(self) -> set[frozenset[str]]:
        """The questions by cluster."""
        sql = "SELECT cluster, messages FROM examples WHERE learner = ?"
        groups: dict[str, set[str]] = {}
        for row in self.store.read(sql, (self.learner,)):
            groups.setdefault(row["cluster"], set()).add(json.loads(row["messages"])[0]["content"])
        return {frozenset(group) for group in groups.values()}

    def index_rows(self) -> int:
        return int(self.store.read("SELECT count(*) AS number FROM near_duplicates")[0]["number"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.open(database_path(tmp_path_factory.mktemp("state")))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def learners() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def questions(tmp_path: Path) -> Iterator[Questions]:
    opened = Store.open(database_path(tmp_path / "state"))
    yield Questions(opened, "default")
    opened.close()


def long_question(words: Sequence[str]) -> str:
    return f"Tell me what the {' '.join(words)} have in common?"


def misspelt(number: int) -> str:
    """A long question of which so many words lack a letter."""
    return long_question([word[:3] + word[4:] for word in WORDS[:number]] + list(WORDS[number:24]))


#: Questions of which each is alike to the next, and the first and the last are not.
CHAIN = [misspelt(number) for number in range(0, 18, 2)]
FIRST, BETWEEN, LAST = misspelt(0), misspelt(8), misspelt(16)
#: Words of which each is a misspelling or a form of some others.
CONFUSABLE = ("late", "later", "laters", "laterr", "laser", "lased", "lase", "layer", "lates", "latest")
TEMPLATES = (
    "What is the telephone extension of {}?",
    "Please classify the sentiment of this review as positive or negative, and give no reasons: {}",
    "Who is responsible for the release of the mobile application of the company in the {} office?",
    "Wie lautet die Durchwahl von {} in der Abteilung Buchhaltung?",
)
NAMES = re.findall(
    r"\w+",
    """
    Abel Baker Charlie Dora Edison Ford Gustav Henry Isaac Jason Kaufmann Ludwig Martha Nelly Otto Paula Quebec Richard
    Samuel Theodor Ulrich Viktor Wilhelm Xavier York Zeppelin
    """,
)

long_questions = st.permutations(WORDS).map(lambda words: words[:24]).map(long_question)
#: Names of which none is a misspelling or a form of another.
names = st.lists(
    st.from_regex(r"[a-z]{3,9}", fullmatch=True).filter(lambda name: name not in FUNCTION_WORDS),
    unique_by=lambda name: name[0],
    min_size=2,
    max_size=8,
)


@st.composite
def misspelling(draw: st.DrawFn, word: str) -> str:
    """One letter more, less, other or moved, but for the first."""
    at = draw(st.integers(1, len(word) - 2))
    letter = draw(st.sampled_from("xyé"))
    head, rest = word[:at], word[at:]
    return draw(st.sampled_from((head + letter + rest, head + rest[1:], head + letter + rest[1:], swapped(word, at))))


def swapped(word: str, at: int) -> str:
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, str]:
    """A long question, and the same one with one or two words misspelt, other case and more politeness."""
    words = draw(st.permutations(WORDS))[:24]
    changed = list(words)
    for at in draw(st.lists(st.integers(0, 23), min_size=1, max_size=2, unique=True)):
        changed[at] = draw(misspelling(words[at]))
    text = draw(st.sampled_from(("", "Hello, please: "))) + long_question(changed)
    return long_question(words), draw(st.sampled_from((text, text.upper(), text.replace("the ", ""))))


def test_bands_are_those_of_datasketch_for_the_lowest_similarity_that_can_be_set() -> None:
    chosen = datasketch.MinHashLSH(threshold=0.5, num_perm=near_duplicates.PERMUTATIONS)
    assert (chosen.b, chosen.r) == (near_duplicates.BANDS, near_duplicates.ROWS)


def test_signatures_stay_what_they_are_in_stores_that_exist(questions: Questions) -> None:
    messages = [{"role": "user", "content": "What is the status of order 17?"}]
    signature = questions.store.write(lambda connection: place(connection, "default", messages, 0.8).signature)
    assert len(signature) == 272
    assert hashlib.sha256(signature).hexdigest() == "c0abc20a23f9b6160f0ea0a796905cc14fef480d19ca340be847a0035d27c4ee"


@pytest.mark.parametrize(("similarity", "same"), [(0.5, 47), (0.6, 44), (0.7, 42), (0.8, 28), (0.9, 14)])
def test_labelled_pairs(store: Store, learners: Iterator[int], similarity: float, same: int) -> None:
    def together(pair: tuple[str, str]) -> bool:
        asked = Questions(store, f"learner-{next(learners)}", similarity)
        asked.add_all(pair)
        return len(set(asked.clusters().values())) == 1

    assert sum(map(together, SAME)) >= same
    assert not list(filter(together, DIFFERENT))


@settings(max_examples=40, deadline=None)
@given(template=st.sampled_from(TEMPLATES), names=names)
@example(template=TEMPLATES[0], names=NAMES)
@example(template=TEMPLATES[2], names=NAMES)
def test_what_is_asked_by_one_template_about_different_things_never_shares_a_cluster(
    store: Store, learners: Iterator[int], template: str, names: list[str]
) -> None:
    asked = Questions(store, f"learner-{next(learners)}", LOWEST)
    asked.add_all([template.format(name) for name in names])
    assert len(set(asked.clusters().values())) == len(names)


def test_reviews_to_be_classified_are_different_questions(questions: Questions) -> None:
    reviews = (
        "the soup was cold",
        "the soup was hot",
        "what a lovely evening",
        "never again",
        "cold soup, rude waiter",
    )
    questions.add_all([TEMPLATES[1].format(review) for review in reviews])
    assert len(set(questions.clusters().values())) == len(reviews)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("When does the museum open on Sundays?", "when does the musuem open on sunday"),  # moved letter, word form
        ("Where is the config file of the backup service?", "Where is the configuration file of the backup service?"),
        ("Is the canteen open during the summer holidays?", "Is the canteen open in summer holidays?"),
        ("Write a function in Python that sorts a list of names", "Write a Python function that sorts a list of names"),
        ("Wie kann ich meine Rechnung mit der Post bekommen?", "Wie kann ich die Rechnung mit der Post bekommen?"),
    ],
)
def test_misspellings_word_forms_function_words_and_order_are_looked_past(questions: Questions, a: str, b: str) -> None:
    questions.add_all([a, b])
    assert len(set(questions.clusters().values())) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I switch on the backup of the server?", "How do I switch off the backup of the server?"),
        ("May I bring a dog to the summer party?", "May I not bring a dog to the summer party?"),
        ("May I bring a dog to the summer party?", "May I bring a dog and a cat to the summer party?"),
        ("Is the market far from the station of Bonn?", "Is the market far from the station of Lyon?"),
        ("What does the big tower of the old church cost?", "What does the pig tower of the old church cost?"),
    ],
)
def test_one_word_of_content_more_or_another_makes_a_different_question(questions: Questions, a: str, b: str) -> None:
    questions.add_all([a, b])
    assert len(set(questions.clusters().values())) == 2


confusable = st.lists(st.sampled_from(CONFUSABLE), min_size=1, max_size=4)


@given(a=confusable, b=confusable)
@example(a=["late"], b=["late", "later"])
def test_likeness_is_mutual(a: list[str], b: list[str]) -> None:
    ours, theirs = (f"{FIRST} {' '.join(words)}" for words in (a, b))
    assert alike(ours, theirs, LOWEST) == alike(theirs, ours, LOWEST)


@given(a=confusable, b=confusable, data=st.data())
@example(a=["later", "lased"], b=["laser", "late"], data=None)
def test_the_order_of_words_does_not_matter(a: list[str], b: list[str], data: st.DataObject | None) -> None:
    """All orders overlap by more than the similarity that is asked for: the words decide."""
    moved = data.draw(st.permutations(b)) if data else b[::-1]
    straight, other = f"{FIRST} {' '.join(b)}", f"{' '.join(moved)} {FIRST}"
    assert alike(f"{FIRST} {' '.join(a)}", straight, LOWEST) == alike(f"{FIRST} {' '.join(a)}", other, LOWEST)


@given(words=st.permutations(WORDS), at=st.integers(1, 23))
def test_a_question_turned_round_is_the_same(words: list[str], at: int) -> None:
    assert alike(long_question(words[:24]), long_question(words[at:24] + words[:at]), SIMILARITY)


def test_very_long_questions_have_no_likes_but_their_own_words(questions: Questions) -> None:
    lines = [f"{word} {other} lamp" for word, other in itertools.product(WORDS, WORDS)]
    short, long = "\n".join(lines[:500]), "\n".join(lines)
    assert len(short) < 20_000 < len(long)
    for text, clusters in ((short, 1), (long, 2)):
        before = len(set(questions.clusters().values()))
        questions.add_all([text, text.replace("amber anchor", "amber anchors", 1), text.upper()])
        assert len(set(questions.clusters().values())) == before + clusters


def test_a_question_that_is_misspelt_all_over_is_another_one() -> None:
    """So that comparing two long texts has a bound."""
    words = ["".join(letters) for letters in itertools.product("abcd", "lmnopq", "rstu", "vwxy", "ae")]
    for others, expected in ((near_duplicates._MAX_OTHERS, True), (near_duplicates._MAX_OTHERS + 1, False)):
        changed = [f"{word}z" for word in words[:others]] + words[others:]
        assert alike(" ".join(words), " ".join(changed), LOWEST) is expected


def test_a_misspelt_question_joins_and_another_number_does_not(bench: Bench) -> None:
    first, misspelt, other = (
        bench.correct(question, f"Answer {number}").example_id
        for number, question in enumerate(
            (
                "When will the parcel with the number 4711 arrive?",
                "when will the parcel with the number 4711 arive",
                "When will the parcel with the number 4712 arrive?",
            )
        )
    )
    clusters = {row["id"]: row["cluster"] for row in bench.store.read("SELECT id, cluster FROM examples")}
    assert clusters[first or 0] == clusters[misspelt or 0]
    assert clusters[first or 0] != clusters[other or 0]


@settings(max_examples=60, deadline=None)
@given(pair=edited())
def test_a_few_letters_keep_a_long_question_in_its_cluster(
    store: Store, learners: Iterator[int], pair: tuple[str, str]
) -> None:
    asked = Questions(store, f"learner-{next(learners)}")
    asked.add_all(pair)
    assert len(set(asked.clusters().values())) == 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_who_comes_first_does_not_matter(store: Store, learners: Iterator[int], data: st.DataObject) -> None:
    pairs = data.draw(st.lists(edited(), max_size=4))
    links = data.draw(st.lists(st.sampled_from(CHAIN), min_size=2, max_size=6))
    texts = [*links, *(text for pair in pairs for text in pair)]
    forwards = Questions(store, f"learner-{next(learners)}")
    forwards.add_all(texts)
    shuffled = Questions(store, f"learner-{next(learners)}")
    shuffled.add_all(data.draw(st.permutations(texts)))
    assert shuffled.together() == forwards.together()


def test_a_question_between_two_clusters_makes_them_one(questions: Questions) -> None:
    assert alike(FIRST, BETWEEN, SIMILARITY)
    assert alike(BETWEEN, LAST, SIMILARITY)
    assert not alike(FIRST, LAST, SIMILARITY)
    questions.add_all([FIRST, FIRST, LAST])
    assert len(questions.together()) == 2
    questions.add(BETWEEN)
    assert questions.together() == {frozenset({FIRST, BETWEEN, LAST})}
    questions.add(LAST.upper())
    assert len(set(questions.clusters().values())) == 1


def from_template(number: int) -> list[str]:
    """Questions about names that differ by a letter from some others: misspellings, for all that is known of them."""
    names = itertools.islice(itertools.product("abcdefgh", repeat=4), number)
    return [
        f"Who is responsible for the release of the mobile application in the office of the town {''.join(name)}?"
        for name in names
    ]


def test_a_template_never_fills_more_than_the_bound_but_its_own_words_always_join(questions: Questions) -> None:
    texts = from_template(200)
    assert alike(texts[0], texts[1], SIMILARITY)
    questions.add_all(texts)
    sizes = Counter(questions.clusters().values())
    assert max(sizes.values()) == near_duplicates.MAX_QUESTIONS
    full = questions.clusters()[1]
    assert sizes[full] == near_duplicates.MAX_QUESTIONS
    again = questions.add(texts[40].upper())
    assert questions.clusters()[again] == full


def test_the_bound_counts_what_was_merged(questions: Questions) -> None:
    ends = [" ".join(pair) for pair in itertools.product(("with", "from", "into", "about", "your", "them"), repeat=2)]
    more = [f"{end} here" for end in ends]
    questions.add_all([f"{FIRST} {end}" for end in ends[:30]])
    questions.add_all([f"{LAST} {end}" for end in ends[:20]])
    assert sorted(map(len, questions.together())) == [20, 30]
    questions.add(BETWEEN)
    assert sorted(map(len, questions.together())) == [51]
    questions.add_all([f"{FIRST} {end}" for end in more])
    assert sorted(map(len, questions.together()))[-1] == near_duplicates.MAX_QUESTIONS


def test_a_question_asked_often_still_takes_its_misspellings(questions: Questions) -> None:
    questions.add_all(["How do I reset the password of my account?"] * 100)
    questions.add("How do I reset the pasword of my account?")
    assert len(set(questions.clusters().values())) == 1


def test_a_flood_of_one_question_takes_one_row_each(questions: Questions) -> None:
    questions.add("How do I reset the password of my account?")
    before = questions.index_rows()
    assert before == near_duplicates.BANDS + 2
    questions.add_all(["how do i reset THE PASSWORD of my account"] * 50)
    assert questions.index_rows() == before + 50


def test_what_left_the_index_left_nothing_and_the_others_are_still_found(questions: Questions) -> None:
    text, misspelt = "How do I reset the password of my account?", "How do I reset the pasword of my account?"
    first, second, third = questions.add_all([text, text, "Something else altogether, please?"])
    questions.remove(first)
    again = questions.add(misspelt)
    assert questions.clusters()[again] == questions.clusters()[second]
    for example_id in questions.clusters():
        questions.remove(example_id)
    assert questions.index_rows() == 0
    assert third not in questions.clusters()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_in_and_out_in_any_order_leaves_nothing(store: Store, learners: Iterator[int], data: st.DataObject) -> None:
    asked = Questions(store, f"learner-{next(learners)}")
    before = asked.index_rows()
    texts = data.draw(st.lists(st.sampled_from([*CHAIN, *from_template(2)]), min_size=1, max_size=8))
    for example_id in data.draw(st.permutations(asked.add_all(texts))):
        asked.remove(example_id)
    assert asked.index_rows() == before


def test_an_example_from_before_the_index_leaves_it_untouched(questions: Questions) -> None:
    questions.add("What is the port?")
    before = questions.index_rows()
    questions.store.write(lambda connection: unindex(connection, 1, b""))
    assert questions.index_rows() == before


def test_learners_have_clusters_of_their_own(questions: Questions) -> None:
    texts = CHAIN[:2]
    other = Questions(questions.store, "other")
    questions.add(texts[0])
    other.add(texts[1])
    # without a merge, a cluster is named for its own words
    assert other.clusters() != questions.clusters()
    questions.add(texts[1])
    assert len(set(questions.clusters().values())) == 1
    assert set(other.clusters().values()).isdisjoint(questions.clusters().values())


def steps_of(questions: Questions, text: str) -> int:
    """SQLite's instructions for placing a question."""
    taken = itertools.count()

    def work(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(lambda: next(taken) < 0, 1)
        try:
            place(connection, questions.learner, [{"role": "user", "content": text}], questions.similarity)
        finally:
            connection.set_progress_handler(None, 1)

    questions.store.write(work)
    return next(taken)


def test_placing_costs_the_same_however_many_there_are(questions: Questions) -> None:
    """On the worst history: all questions are from one template, so that all share bands."""
    texts = from_template(1024)
    new = texts[0].replace("aaaa", "zzzz")
    questions.add_all(texts[:128])
    before = steps_of(questions, new)
    questions.add_all(texts[128:])
    assert steps_of(questions, new) <= 1.5 * before
