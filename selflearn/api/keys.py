"""Who calls, and what they may do: the layers that ask every request for a key and every route for a role."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Literal, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from selflearn.api.keyring import Keyring, Role
from selflearn.api.state import services_in
from selflearn.errors import Forbidden, Unauthorized

Access = Literal["open"] | Role
RANK: Final[dict[Role, int]] = {"client": 0, "teacher": 1, "operator": 2}
_SCHEME = b"bearer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the name and the role of the key that it came with."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether this caller may do what ``role`` may do."""
        return RANK[self.role] >= RANK[role]

    @property
    def actor(self) -> str:
        """How logs of operators' deeds name this caller."""
        return self.role if self == LOCAL else f"{self.role}:{self.name}"


LOCAL: Final = Caller("local", "operator")  # everyone, as long as no keys are configured


def caller_of(request: Request) -> Caller:
    """Returns who sent this request. Routes that are open to everyone have no caller."""
    return cast("Caller", request.state.caller)


class RequireKey:
    """Finds the caller by the request's key, or refuses with 401. Without configured keys everyone is ``LOCAL``.

    ``open_paths`` need no key.
    """

    def __init__(self, app: ASGIApp, open_paths: Set[str]) -> None:
        self._app = app
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            scope["state"]["caller"] = _identify(scope, services_in(scope).keyring)
        await self._app(scope, receive, send)


def _identify(scope: Scope, keyring: Keyring | None) -> Caller:
    if keyring is None:
        return LOCAL
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(sent) != 1:
        raise Unauthorized(
            f"One key is needed; found {len(sent) or 'none'}. Send 'Authorization: Bearer sl-...'; operators make keys "
            "with 'selflearn keys add NAME --role ROLE'."
        )
    scheme, _, secret = sent[0].strip().partition(b" ")
    if scheme.lower() != _SCHEME:
        raise Unauthorized(
            "The Authorization header has another scheme than Bearer. Send 'Authorization: Bearer sl-...'."
        )
    key = keyring.find(secret.strip())
    if key is None:
        raise Unauthorized("The key is not known here: it was mistyped, removed, or made for another server.")
    return Caller(key.name, key.role)


class RequireRole:
    """The layer around one route: refuses callers whose role does not reach ``role``."""

    def __init__(self, app: ASGIApp, role: Role) -> None:
        self._app = app
        self._role = role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope["state"]["caller"]
        if not caller.may(self._role):
            raise Forbidden(
                f"{scope['method']} {scope['path']} needs a key of role {self._role}; {caller.name!r} has the role "
                f"{caller.role}. Use another key."
            )
        await self._app(scope, receive, send)
