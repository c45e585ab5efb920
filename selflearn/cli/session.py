"""What every command shares: settings, the daemon if one answers, the state directory if none does."""

from __future__ import annotations

import functools
import os
import pwd
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from selflearn.cli import transport
from selflearn.errors import ConfigurationError, DaemonUnreachable, RefusedByGate, SelflearnError

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPResponse

    import typer

    from selflearn.config import Settings
    from selflearn.store import Store

T = TypeVar("T")
READ_SECONDS = 30.0
ACTOR = "operator"
KEY_VARIABLE = "SELFLEARN_API_KEY"
KEY_HINT = f" Put your key into {KEY_VARIABLE}, or name its file with --key-file or api.client_key_file."
UNAUTHORIZED, FORBIDDEN = 401, 403
REFUSED_BY_GATE = "refused_by_gate"
_KEY = re.compile(r"[!-~]{1,500}")
_ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, never bound to


@dataclass(frozen=True)
class Session:
    """One run of the command: the global options, and what follows from them (computed once, when first needed)."""

    state_flag: Path | None
    config_file: Path | None
    url_flag: str | None
    key_file_flag: Path | None = None

    @functools.cached_property
    def settings(self) -> Settings:
        from selflearn.config import load

        return load(self.config_file, **({"state": self.state_flag} if self.state_flag else {}))

    @property
    def learner(self) -> str:
        return self.settings.learner

    @property
    def actor(self) -> str:
        """Who does what is done on the state directory without a daemon, as logs name them."""
        return f"operator:{pwd.getpwuid(os.getuid()).pw_name}"

    @property
    def url(self) -> str:
        """Where the daemon is expected: ``--url``, or what the settings say."""
        if self.url_flag:
            return self.url_flag.rstrip("/")
        serving = self.settings.serving
        host = "127.0.0.1" if serving.host in _ANY_ADDRESS else serving.host
        scheme = "http" if self.settings.api.tls_certificate_file is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{serving.port}"

    @property
    def trusted(self) -> ssl.SSLContext | None:
        """Whose certificates are believed: with ``--url`` those that the system trusts, else the daemon's own.

        None where nothing is encrypted.
        """
        if not self.url.startswith("https:"):
            return None
        import ssl

        own = None if self.url_flag else self.settings.api.tls_certificate_file
        context = ssl.create_default_context(cafile=own)
        if own is not None:  # it is the very one; on loopback the daemon is called by another name than it says
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    @functools.cached_property
    def headers(self) -> dict[str, str]:
        """What every request carries: the key, from ``--key-file``, SELFLEARN_API_KEY or api.client_key_file."""
        if self.key_file_flag is not None:
            key = _read_key(self.key_file_flag)
        elif not (key := os.environ.get(KEY_VARIABLE, "")):
            configured = self.settings.api.client_key_file
            key = "" if configured is None else _read_key(configured)
        if key and not _KEY.fullmatch(key):
            raise ConfigurationError("What should be a key is none; expected one word, as 'selflearn keys add' prints.")
        return {"authorization": f"Bearer {key}"} if key else {}

    @property
    def _credentials(self) -> dict[str, Any]:
        return {"headers": self.headers, "trusted": self.trusted}

    def call(self, method: str, path: str, body: object = None, timeout: float = READ_SECONDS) -> dict[str, Any]:
        """Sends one request to the daemon and returns its JSON answer. Bytes are sent as JSON Lines, all else as JSON.

        Raises ``DaemonUnreachable`` if none answers, ``SelflearnError`` with the daemon's message if it refuses.
        """
        self._require_own_daemon()
        return self._checked(self._ask(method, path, body, timeout))

    def stream(self, path: str) -> Iterator[bytes]:
        """The body of what the daemon answers to a GET, as it comes; raises as :meth:`call` says."""
        self._require_own_daemon()
        with self.answered("GET", path) as response:
            yield from transport.pieces(response)

    @contextmanager
    def answered(
        self, method: str, path: str, body: object = None, timeout: float = READ_SECONDS
    ) -> Iterator[HTTPResponse]:
        """The daemon's answer while it comes, one that says that it did what was asked; raises as :meth:`call` says."""
        try:
            with transport.answered(
                self.url, method, path, body=body, timeout=timeout, **self._credentials
            ) as response:
                if not 200 <= response.status < 300:
                    self._checked(transport.whole(response))
                yield response
        except transport.BrokenOff as error:
            if error.begun:
                raise SelflearnError(
                    f"The daemon's answer broke off ({error}); what came of it is not whole."
                ) from error
            raise self._unreachable(error) from error

    def either(self, remote: Callable[[], T], local: Callable[[Store], T]) -> T:
        """Returns ``remote()``, which asks the daemon, or ``local(store)`` when none answers."""
        try:
            return remote()
        except DaemonUnreachable:
            if self.url_flag and not self.state_flag:
                raise  # a daemon elsewhere was meant, not the state directory here
            with self.store() as store:
                return local(store)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Opens the database of an existing state directory, and closes it."""
        from selflearn.store import Store

        path = self.database
        if not path.is_file():
            raise DaemonUnreachable(
                f"No daemon answers at {self.url}, and {path.parent} is no state directory of selflearn. Start a "
                "daemon with 'selflearn serve', or name the right place with --state or --url."
            )
        with Store.open(path) as opened:
            yield opened

    @property
    def database(self) -> Path:
        from selflearn.store import database_path

        return database_path(self.settings.state)

    def _require_own_daemon(self) -> None:
        """Without --url, a daemon that happens to listen at the default address must be that of our state directory."""
        if self.url_flag or not self.database.is_file():
            return
        if self._daemon_state not in (None, str(self.settings.state.resolve())):
            raise DaemonUnreachable(
                f"The daemon at {self.url} runs on another state directory ({self._daemon_state}), not on "
                f"{self.settings.state}. Name the one that you mean with --url or --state."
            )

    @functools.cached_property
    def _daemon_state(self) -> str | None:
        answer = self._ask("GET", "/admin/status", None, READ_SECONDS)
        if answer.status == FORBIDDEN:
            return None  # only operators are told
        found = self._checked(answer).get("state")
        return None if found is None else str(found)

    def _ask(self, method: str, path: str, body: object, timeout: float) -> transport.Answer:
        try:
            return transport.ask(
                self.url, method, path, headers=self.headers, body=body, timeout=timeout, trusted=self.trusted
            )
        except transport.BrokenOff as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"No daemon answers at {self.url} ({error}). Start it with 'selflearn serve', or say with --url where it "
            "is."
        )

    def _checked(self, answer: transport.Answer) -> dict[str, Any]:
        if answer.is_success and isinstance(answer.data, dict):
            return answer.data
        try:
            problem = cast("dict[str, Any]", answer.data)["error"]
            text = str(problem["message"])
        except (TypeError, KeyError):
            raise DaemonUnreachable(
                f"{self.url} answers {answer.status}, but not as selflearn does. Check --url."
            ) from None
        if problem.get("code") == REFUSED_BY_GATE:
            raise RefusedByGate(text, code=REFUSED_BY_GATE)
        raise SelflearnError(text + (KEY_HINT if answer.status == UNAUTHORIZED else ""))


def _read_key(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file {file} with the key to send cannot be read: {error}.") from error


def session_of(context: typer.Context) -> Session:
    """Returns the session that the main command made."""
    return cast("Session", context.obj)
