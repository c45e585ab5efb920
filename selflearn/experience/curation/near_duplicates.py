"""Near duplicates: which questions are so alike that they must never be told apart.

Two questions are *alike* if most of their letters are the same, their numbers are, and their words of content are,
but for misspellings, word forms and order. Overlap finds them and the words decide: what is asked by one template
overlaps whatever it is asked about.

A question's *signature* (MinHash, Broder 1997) says how far two questions overlap without their texts. Parts of it,
the *bands*, are keys of the table ``near_duplicates``: questions that overlap share at least one of them, so that
looking them up costs the same however many there are. Questions that are alike, directly or by others between them,
share a *cluster*.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from selflearn.experience.curation.function_words import FUNCTION_WORDS
from selflearn.experience.texts import content_text, normalise, question_of, sha256
from selflearn.store import rows

if TYPE_CHECKING:
    import datasketch
    import numpy as np
    from numpy.typing import NDArray

    from selflearn.experience.examples import Offer

#: A signature is stored, and signatures are compared with each other: change none of these without making all anew.
PERMUTATIONS: Final = 128
_SEED: Final = 1
_SHINGLE: Final = 5
#: Longer questions are compared by their beginning (their exact words are known by all of them).
_MAX_CHARACTERS: Final = 10_000
#: Beyond this a question has no likes but those of the very same words: comparing would hold up the writer.
_LONGEST: Final = 20_000
#: What datasketch chooses for 0.5, the lowest similarity that may be set: the index serves every setting.
BANDS: Final = 25
ROWS: Final = 5

#: A cluster takes no more questions by likeness: names that differ by a letter ("Mary", "Mark") would chain what a
#: template asks into a single cluster, and nothing could be held out any more. The same words always join.
MAX_QUESTIONS: Final = 64
#: What is looked at for one question: the newest of each band, then those that share the most bands.
_PER_BAND: Final = 8
_CANDIDATES: Final = 64
_TWINS: Final = 64
#: Which of two clusters has more examples is found out up to here.
_COUNTED: Final = 1024
#: Texts that are shorter are twins only if they are equal: one letter may change all that they say.
_SHORT: Final = 20

#: So many letters make a stem that a longer word may share.
_STEM: Final = 4
#: Questions with more words that the other has not are never alike: each is compared with each.
_MAX_OTHERS: Final = 64
_HEAD: Final = 8
_VALUES: Final = "<u2"
#: Words that change nothing in what is asked or said.
_FILLERS: Final = frozenset(
    {"a", "an", "the", "please", "kindly", "thanks", "hi", "hello", "hey", "ok", "okay", "well"}
)
_SENTENCE_ENDS: Final = re.compile(r"[.,!?;:…]+(?=\s|$)")
_QUOTES: Final = str.maketrans("‘’“”", "''\"\"")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a question belongs: its ``cluster``, and its ``signature`` for :func:`index`.

    A signature is 8 bytes that name the learner and the question's numbers (questions whose numbers differ are never
    alike), 8 that name its exact words, and 128 MinHash values, 16 bits of each.
    """

    cluster: str
    signature: bytes


def prepare_near_duplicates() -> None:
    """Loads what signatures are made with, half a second, so that the first question need not wait for it."""
    _empty()


def place(
    connection: sqlite3.Connection, learner: str, messages: Sequence[Mapping[str, Any]], similarity: float
) -> Placement:
    """The cluster of a question; the clusters of its near duplicates become one, up to ``MAX_QUESTIONS``."""
    words = _words(question_of(messages))
    signature = _signature(learner, words)
    cluster = _cluster_of_words(connection, signature)
    if cluster is None:
        likes = _clusters_of_likes(connection, words, signature, similarity) if len(words) <= _LONGEST else ()
        cluster = _join(connection, learner, signature, sha256(words), likes)
    return Placement(cluster, signature)


def index(connection: sqlite3.Connection, example_id: int, signature: bytes) -> None:
    """Makes an example (a row with its cluster) findable. Only the first with the same words gets bands.

    So a question that is asked ten thousand times takes no more place in the bands than one that is asked once.
    """
    first = _cluster_of_words(connection, signature) is None
    _insert(connection, example_id, [_words_hash(signature)])
    if first:
        _represent(connection, example_id, signature)


def unindex(connection: sqlite3.Connection, example_id: int, signature: bytes | None) -> None:
    """Takes an example out of the index. Call it while the row still has its cluster."""
    if not signature:  # it was never indexed: its row is older than the index
        return
    _delete(connection, example_id, [_words_hash(signature)])
    if not _delete(connection, example_id, _represented(connection, example_id, signature)):
        return
    heirs = "SELECT example_id FROM near_duplicates WHERE hash = ? ORDER BY example_id LIMIT 1"
    for row in rows(connection, heirs, (_words_hash(signature),)):
        _represent(connection, row["example_id"], signature)


def alike(a: str, b: str, similarity: float) -> bool:
    """Whether two texts are near duplicates: by the Jaccard similarity of their shingles, their numbers and words."""
    first, second = _words(normalise(a)), _words(normalise(b))
    if first == second:
        return True
    if _numbers(first) != _numbers(second):
        return False
    ours, theirs = _shingles(first), _shingles(second)
    return len(ours & theirs) >= similarity * len(ours | theirs) and _asks_the_same(first, second)


def twin(
    connection: sqlite3.Connection, learner: str, source: str, cluster: str, offer: Offer, similarity: float
) -> int | None:
    """The example of the same source that says nearly the same, if there is one among the newest of the cluster.

    Only case, spacing, punctuation, politeness, and in the prompt misspellings may differ. Alike is not enough: "opens
    at nine" and "opens at ten" are, and the second may be the correction of the first.
    """
    newest = "SELECT * FROM examples WHERE learner = ? AND cluster = ? ORDER BY id DESC LIMIT ?"
    others = rows(
        connection,
        f"SELECT id, messages, target, rejected FROM ({newest}) WHERE source = ? AND objective = ? AND reward IS ?"
        " AND state NOT IN ('quarantined', 'forgotten')",
        (learner, cluster, _TWINS, source, offer.objective, offer.reward),
    )
    return next((row["id"] for row in others if _says_the_same(row, offer, similarity)), None)


def _says_the_same(row: Mapping[str, Any], offer: Offer, similarity: float) -> bool:
    pairs = ((row["target"], offer.target), (row["rejected"] or "", offer.rejected or ""))
    if not all(_same_answer(known, new, similarity) for known, new in pairs):
        return False
    return _same_prompt(json.loads(row["messages"]), offer.messages, similarity)


def _same_answer(a: str, b: str, similarity: float) -> bool:
    if min(len(a), len(b)) < _SHORT:
        return normalise(a) == normalise(b)
    return _said(a) == _said(b) and alike(a, b, similarity)


def _same_prompt(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], similarity: float) -> bool:
    if [{**turn, "content": ""} for turn in a] != [{**turn, "content": ""} for turn in b]:
        return False
    if not alike(question_of(a), question_of(b), similarity):
        return False
    pairs = zip((_said(content_text(turn)) for turn in a), (_said(content_text(turn)) for turn in b), strict=True)
    return all(len(ours) == len(theirs) and all(map(_same_word, ours, theirs)) for ours, theirs in pairs)


def _said(text: str) -> list[str]:
    """The words of a text with what they are marked by, but for fillers and the punctuation after words."""
    text = _SENTENCE_ENDS.sub("", normalise(text).translate(_QUOTES))
    return [word for word in text.split() if word not in _FILLERS]


def _same_word(a: str, b: str, least: int = 5) -> bool:
    """Whether two words are equal or one is a misspelling of the other: one letter more, less, other or moved.

    Shorter words than ``least`` are other words then.
    """
    if a == b:
        return True
    if min(len(a), len(b)) < least or a[0] != b[0] or not (a.isalpha() and b.isalpha()):
        return False
    start = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))
    rest, other = a[start:], b[start:]
    swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
    return swapped or rest[1:] == other[1:] or rest[1:] == other or rest == other[1:]


def _words(text: str) -> str:
    """The words of a normalised text; the text itself where it has none."""
    return " ".join(re.findall(r"\w+", text)) or text


def _numbers(words: str) -> frozenset[str]:
    """The words with a digit: "order 17" and "order 18" are different questions."""
    return frozenset(word for word in words.split() if any(map(str.isdigit, word)))


def _shingles(words: str) -> set[str]:
    """All runs of five characters; words begin and end with a space."""
    padded = f" {words[:_MAX_CHARACTERS]} "
    return {padded[start : start + _SHINGLE] for start in range(max(1, len(padded) - _SHINGLE + 1))}


@functools.cache
def _empty() -> datasketch.MinHash:
    # It brings SciPy, which takes half a second to import; most commands place no question.
    import datasketch

    return datasketch.MinHash(num_perm=PERMUTATIONS, seed=_SEED, scheme="affine32")


def _signature(learner: str, words: str) -> bytes:
    sketch = _empty().copy()
    sketch.update_batch([shingle.encode() for shingle in _shingles(words)])
    # The low halves of minima are as good for comparing as the whole: two differ by chance once in 65,536.
    values: NDArray[np.uint16] = (sketch.hashvalues & 0xFFFF).astype(_VALUES)
    scope = _short_hash(learner, *sorted(_numbers(words)))
    return scope + _short_hash(words) + values.tobytes()


def _short_hash(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=_HEAD).digest()


def _scope(signature: bytes) -> bytes:
    return signature[:_HEAD]


def _values(signature: bytes) -> NDArray[np.uint16]:
    import numpy as np

    return np.frombuffer(signature, _VALUES, PERMUTATIONS, 2 * _HEAD)


def _key(kind: bytes, signature: bytes, content: bytes) -> int:
    """A key of the table: a signed 64-bit integer, as SQLite stores them."""
    digest = hashlib.blake2b(kind + _scope(signature) + content, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _words_hash(signature: bytes) -> int:
    return _key(b"words", signature, signature[_HEAD : 2 * _HEAD])


def _cluster_hash(signature: bytes, cluster: str) -> int:
    return _key(b"cluster", signature, cluster.encode())


@functools.lru_cache(maxsize=8)  # a question is looked up, then indexed
def _band_hashes(signature: bytes) -> tuple[int, ...]:
    bands = (_values(signature)[band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS))
    return tuple(_key(b"band %d" % band, signature, content) for band, content in enumerate(bands))


def _represented(connection: sqlite3.Connection, example_id: int, signature: bytes) -> list[int]:
    """The keys under which an example stands for all that have its words: the bands, and its cluster."""
    clusters = rows(connection, "SELECT cluster FROM examples WHERE id = ?", (example_id,))
    return [*_band_hashes(signature), *(_cluster_hash(signature, row["cluster"]) for row in clusters)]


def _represent(connection: sqlite3.Connection, example_id: int, signature: bytes) -> None:
    _insert(connection, example_id, _represented(connection, example_id, signature))


def _insert(connection: sqlite3.Connection, example_id: int, hashes: Iterable[int]) -> None:
    values = [(key, example_id) for key in hashes]
    connection.executemany("INSERT OR IGNORE INTO near_duplicates (hash, example_id) VALUES (?, ?)", values)


def _delete(connection: sqlite3.Connection, example_id: int, hashes: Iterable[int]) -> int:
    values = [(key, example_id) for key in hashes]
    return connection.executemany("DELETE FROM near_duplicates WHERE hash = ? AND example_id = ?", values).rowcount


def _cluster_of_words(connection: sqlite3.Connection, signature: bytes) -> str | None:
    """The cluster of the examples whose question has the same words, if there are any: they share one."""
    found = rows(
        connection,
        "SELECT cluster FROM near_duplicates JOIN examples ON examples.id = example_id WHERE hash = ?"
        " ORDER BY example_id DESC LIMIT 1",
        (_words_hash(signature),),
    )
    return str(found[0]["cluster"]) if found else None


def _clusters_of_likes(connection: sqlite3.Connection, words: str, signature: bytes, similarity: float) -> list[str]:
    """The clusters of the near duplicates, those of the most similar first."""
    candidates = _candidates(connection, signature)
    marks = ", ".join("?" for _ in candidates)
    found = rows(connection, f"SELECT cluster, signature, messages FROM examples WHERE id IN ({marks})", candidates)
    ours, best = _values(signature), dict[str, float]()
    for row in found:
        estimated = float((ours == _values(row["signature"])).mean())
        if _scope(row["signature"]) != _scope(signature) or estimated < similarity:
            continue
        if estimated <= best.get(row["cluster"], 0.0):
            continue
        if _asks_the_same(words, _words(question_of(json.loads(row["messages"])))):
            best[row["cluster"]] = estimated
    return sorted(best, key=lambda cluster: (-best[cluster], cluster))


def _asks_the_same(words: str, others: str) -> bool:
    """Whether two questions have the same words of content in any order, misspellings and word forms aside.

    Overlap alone would make one question of all that is asked by one template ("the extension of Abel", "of Baker").
    """
    ours, theirs = Counter(words.split()), Counter(others.split())
    left, right = _content(ours - theirs), _content(theirs - ours)
    if not len(left) == len(right) <= _MAX_OTHERS:
        return False
    for word in left:
        match = next((other for other in right if _same_word(word, other, _STEM) or _same_stem(word, other)), None)
        if match is None:
            return False
        right.remove(match)
    return True


def _content(words: Counter[str]) -> list[str]:
    """In the order of the alphabet: which word is matched with which must not depend on where they stand."""
    return sorted(word for word in words.elements() if word not in FUNCTION_WORDS)


def _same_stem(a: str, b: str) -> bool:
    """Whether one word is the other with an end (or cut off): "config", "configuration"."""
    short, long = sorted((a, b), key=len)
    return len(short) >= _STEM and long.startswith(short)


#: The newest examples of all bands in one statement: a statement for each takes three times as long.
_NEWEST: Final = "SELECT example_id FROM near_duplicates WHERE hash = ? ORDER BY example_id DESC"
_NEWEST_OF_BANDS: Final = " UNION ALL ".join([f"SELECT * FROM ({_NEWEST} LIMIT {_PER_BAND})"] * BANDS)


def _candidates(connection: sqlite3.Connection, signature: bytes) -> list[int]:
    shared = Counter(row[0] for row in connection.execute(_NEWEST_OF_BANDS, _band_hashes(signature)))
    return sorted(shared, key=lambda example_id: (-shared[example_id], -example_id))[:_CANDIDATES]


def _join(connection: sqlite3.Connection, learner: str, signature: bytes, own: str, likes: Sequence[str]) -> str:
    """Makes one cluster of the question's own and those of its likes, while they fit; returns its name."""
    joined, questions = [own], 1 + _questions(connection, signature, own)
    for cluster in likes:
        number = _questions(connection, signature, cluster)
        if cluster != own and questions + number <= MAX_QUESTIONS:
            joined.append(cluster)
            questions += number
    largest = max(joined, key=lambda cluster: (_size(connection, learner, cluster), cluster == own, cluster))
    for cluster in joined:
        if cluster != largest:
            _rename(connection, learner, signature, cluster, largest)
    return largest


def _questions(connection: sqlite3.Connection, signature: bytes, cluster: str) -> int:
    """How many different questions a cluster has, counted up to the bound."""
    some = "SELECT 1 FROM near_duplicates WHERE hash = ? LIMIT ?"
    sql = f"SELECT count(*) FROM ({some})"
    return int(connection.execute(sql, (_cluster_hash(signature, cluster), MAX_QUESTIONS)).fetchone()[0])


def _size(connection: sqlite3.Connection, learner: str, cluster: str) -> int:
    some = "SELECT 1 FROM examples WHERE learner = ? AND cluster = ? LIMIT ?"
    return int(connection.execute(f"SELECT count(*) FROM ({some})", (learner, cluster, _COUNTED)).fetchone()[0])


def _rename(connection: sqlite3.Connection, learner: str, signature: bytes, old: str, new: str) -> None:
    connection.execute("UPDATE examples SET cluster = ? WHERE learner = ? AND cluster = ?", (new, learner, old))
    connection.execute(
        "UPDATE near_duplicates SET hash = ? WHERE hash = ?",
        (_cluster_hash(signature, new), _cluster_hash(signature, old)),
    )
