"""Takes settings anew while the daemon runs: all that can be taken, or, if anything is wrong with them, nothing."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.applications import Starlette

from selflearn.api.keyring import Keyring, read_keyring
from selflearn.api.origins import LOOPBACK
from selflearn.api.services import Services
from selflearn.api.tls import certificate, renew
from selflearn.config import ApiSettings, Settings
from selflearn.daemon.in_force import InForce
from selflearn.errors import ConfigurationError, SelflearnError
from selflearn.monitoring import configure

#: The sections that are taken anew, and what in them needs a restart all the same: it goes into things that are made
#: once, at the start.
TAKEN: Final = ("api", "judging", "watchdog", "logging")
NOT_TAKEN: Final = ("judging.canary_file",)

logger = logging.getLogger(__name__)


def keyring_of(host: str, api: ApiSettings) -> Keyring | None:
    """The keys that are let in; None, for all, only on loopback."""
    if api.keys_file is not None:
        return read_keyring(api.keys_file)
    if host in LOOPBACK:
        return None
    raise ConfigurationError(
        f"serving.host is {host!r}, but there are no keys: whoever reaches it could do anything. Make keys with "
        "'selflearn keys add NAME --role ROLE --keys-file FILE' and name the file in api.keys_file, or listen on a "
        f"loopback address ({', '.join(LOOPBACK)})."
    )


@dataclass(frozen=True, slots=True)
class Reloading:
    """Where settings are put in force. ``reread`` returns those of now; ``tls`` is None without a certificate."""

    app: Starlette
    in_force: InForce
    tls: ssl.SSLContext | None
    reread: Callable[[], Settings]

    def reload(self) -> bool:
        """Takes keys, certificate and settings; False, with the reason in the log, if the old ones stay."""
        try:
            found = self.reread()
            keyring = keyring_of(self.in_force.settings.serving.host, found.api)
            self._check_certificate(found.api)
            configure(found.logging)
        except SelflearnError as error:
            logger.error("settings not reloaded, the old ones stay: %s", error)
            return False
        self._take(found, keyring)
        return True

    def _check_certificate(self, api: ApiSettings) -> None:
        """Tries it in a place of its own, so that the one in use is not touched."""
        tried = certificate(api)
        if (tried is None) != (self.tls is None):
            raise ConfigurationError(
                "Encryption (api.tls_certificate_file) is switched on and off by a restart only. Restart the daemon, "
                "or take the change back."
            )

    def _take(self, found: Settings, keyring: Keyring | None) -> None:
        before = self.in_force.settings
        differing = _differing(before, found)
        left = {name for name in differing if name.partition(".")[0] not in TAKEN or name in NOT_TAKEN}
        judging = found.judging.model_copy(update={"canary_file": before.judging.canary_file})
        sections = {name: getattr(found, name) for name in TAKEN}
        self.in_force.settings = before.model_copy(update={**sections, "judging": judging})
        if self.tls is not None:
            renew(self.tls, found.api)
        services: Services = self.app.state.services
        self.app.state.services = replace(services, api=found.api, keyring=keyring)
        keys = 0 if keyring is None else len(keyring.keys)
        logger.info("settings reloaded", extra={"fields": {"keys": keys, "changed": _words(differing - left)}})
        if left:
            logger.warning("settings that changed, but need a restart: %s", _words(left))


def _differing(before: Settings, after: Settings) -> set[str]:
    """The names of settings whose values differ."""
    first, second = _flat(before.model_dump()), _flat(after.model_dump())
    return {name for name, value in first.items() if second[name] != value}


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _words(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
