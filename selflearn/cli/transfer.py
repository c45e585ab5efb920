"""How files of training data go to the daemon, or into the state directory: in parts, from where they stopped."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

from selflearn.errors import SelflearnError

if TYPE_CHECKING:
    from selflearn.cli.session import Session
    from selflearn.experience.transfer.formats import Format
    from selflearn.experience.transfer.importing import Line
    from selflearn.store import Store

STDIN = "-"
#: A part is sent and recorded as one: small, so that progress is seen and little is sent twice.
PART_LINES = 200
PART_BYTES = 256 * 1024
SEND_SECONDS = 600.0
MAX_ERRORS = 20
NUMBERS = ("received", "accepted", "known", "folded", "quarantined", "rejected")
NOTHING: dict[str, Any] = {**dict.fromkeys(NUMBERS, 0), "errors": []}


@dataclass(frozen=True, slots=True)
class Opened:
    """A file to import: its lines, and the file itself, whose position says how much of its ``size`` is read."""

    sha256: str
    lines: IO[bytes]
    raw: IO[bytes]
    size: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the import is called, and of which file it is; without a format, each row's is detected."""

    name: str
    format: Format | None
    sha256: str


class Place(Protocol):
    """Where rows go."""

    def progress(self) -> dict[str, Any]:
        """How far the file has come: its counts, ``lines``, ``finished_at`` and the ``source``."""
        ...

    def restart(self) -> None: ...

    def send(self, lines: list[Line]) -> dict[str, Any]:
        """Returns what became of some lines, once it is durable."""
        ...

    def finish(self, line: int) -> None:
        """Notes that the file is done; ``line`` was its last."""
        ...


@dataclass
class Remote:
    """The daemon."""

    session: Session
    wanted: Wanted
    again: bool = False

    def progress(self) -> dict[str, Any]:
        return self.session.call("GET", f"/v1/demonstrations/{self.wanted.sha256}?{self._query()}")

    def restart(self) -> None:
        self.again = True

    def send(self, lines: list[Line]) -> dict[str, Any]:
        # Lines that are too long are told by who reads them; an empty one in their place keeps the numbers right.
        body = b"".join((line or b"").rstrip(b"\n") + b"\n" for _, line in lines)
        done = self._post(body, file=self.wanted.sha256, line=lines[0][0], again=self.again)
        self.again = False
        long = [number for number, line in lines if line is None]
        errors = [{"line": number, "reason": "the line is too long"} for number in long]
        return together(done, {**NOTHING, "received": len(long), "rejected": len(long), "errors": errors})

    def finish(self, line: int) -> None:
        self._post(b"", file=self.wanted.sha256, line=line + 1, last=True, again=self.again)

    def _post(self, body: bytes, **more: str | int) -> dict[str, Any]:
        path = f"/v1/demonstrations?{self._query(**more)}"
        return self.session.call("POST", path, body, timeout=SEND_SECONDS)

    def _query(self, **more: str | int) -> str:
        named = {"name": self.wanted.name, "format": self.wanted.format, **more}
        return urlencode({name: value for name, value in named.items() if value is not None})


@dataclass
class Local:
    """The state directory, while no daemon runs."""

    session: Session
    store: Store
    wanted: Wanted

    def __post_init__(self) -> None:
        from selflearn.experience.transfer.importing import import_source
        from selflearn.experience.transfer.imports import ImportedFile, Sender

        self.sender = Sender(self.session.learner, import_source(self.wanted.name))
        self.file = ImportedFile(self.wanted.sha256, self.wanted.name)

    def progress(self) -> dict[str, Any]:
        from selflearn.experience.transfer.imports import progress_of

        found = progress_of(self.store, self.sender, self.file, self.wanted.format)
        where = {"source": self.sender.source, "lines": found.lines, "finished_at": found.finished_at}
        return {**found.counts.summary(), **where}

    def restart(self) -> None:
        from selflearn.experience.transfer.imports import restart_import

        restart_import(self.store, self.sender, self.file, self.wanted.format)

    def send(self, lines: list[Line]) -> dict[str, Any]:
        from selflearn.experience.transfer.importing import import_rows

        counts = import_rows(
            self.store,
            self.sender,
            lines,
            format_=self.wanted.format,
            file=self.file,
            settings=self.session.settings.experience,
        )
        return counts.summary()

    def finish(self, line: int) -> None:
        from selflearn.experience.transfer.imports import finish_import

        finish_import(self.store, self.sender, self.file, self.wanted.format)


def together(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The counts of both; the errors in the order of their lines."""
    errors = sorted([*one["errors"], *other["errors"]], key=lambda error: int(error["line"]))
    return {**one, **{name: one[name] + other[name] for name in NUMBERS}, "errors": errors[:MAX_ERRORS]}


def transfer(
    place: Place, opened: Opened, max_line: int, *, again: bool, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Sends what of a file is not done yet, and returns the counts of the whole file.

    ``tell`` gets the line and the byte up to which all is durable.
    """
    from selflearn.experience.transfer.importing import read_lines

    found = place.progress()
    if again:
        place.restart()
        found = {**found, **NOTHING, "lines": 0, "finished_at": None}
    if found["finished_at"] is not None:
        return {**found, "finished_before": True}
    opened.lines.seek(0)
    done = int(found["lines"])
    rest = (line for line in read_lines(opened.lines, max_line) if line[0] > done)
    totals = {**NOTHING, **{name: found[name] for name in (*NUMBERS, "errors")}}
    for part in parts(rest, min(PART_BYTES, max_line)):
        totals = together(totals, place.send(part))
        done = part[-1][0]
        tell(done, opened.raw.tell())
    place.finish(done)
    return {"source": found["source"], "lines": done, **totals, "finished_before": False}


def parts(lines: Iterator[Line], max_bytes: int) -> Iterator[list[Line]]:
    """Lines in parts of at most ``PART_LINES``, and of ``max_bytes`` unless one line alone has more."""
    part: list[Line] = []
    size = 0
    for number, line in lines:
        length = len(line or b"") + 1
        if part and (len(part) >= PART_LINES or size + length > max_bytes):
            yield part
            part, size = [], 0
        part.append((number, line))
        size += length
    if part:
        yield part


@contextlib.contextmanager
def opened_file(file: str) -> Iterator[Opened]:
    """Opens a file, unpacked if it is packed with gzip, or standard input, which is read to its end first."""
    from selflearn.experience.transfer.imports import digest_of_file

    with contextlib.ExitStack() as stack:
        try:
            if file == STDIN:
                raw: Any = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(sys.stdin.buffer, raw)
            else:
                raw = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise SelflearnError(f"{file} cannot be read: {error.strerror or error}. Name a file that can.") from error
        size = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        digest = digest_of_file(raw)
        raw.seek(0)
        lines: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
        try:
            yield Opened(digest, lines, raw, size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SelflearnError(f"{file} is damaged ({error}); what an import had read before that stays.") from error


def name_of(file: str) -> str:
    """What the import of a file is called unless somebody says so: as the file, without its endings."""
    name = "stdin" if file == STDIN else Path(file).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:63] or "file"


@contextlib.contextmanager
def written_file(file: Path | None, *, force: bool) -> Iterator[IO[bytes]]:
    """Standard output, or a new file that is there under its name only once it is whole; only its owner may read it.

    With the ending .gz it is packed.
    """
    if file is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if file.exists() and not force:
        raise SelflearnError(f"{file} is there already. Choose another name, or replace it with --force.")
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as raw:
            part = Path(raw.name)
            try:
                if file.suffix == ".gz":
                    with gzip.GzipFile(fileobj=raw, mode="wb") as packed:
                        yield packed  # type: ignore[misc]
                else:
                    yield raw
                raw.flush()
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise SelflearnError(f"{file} cannot be written: {error.strerror or error}.") from error
