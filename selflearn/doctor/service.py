"""Who may use the daemon, and where it listens."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from selflearn.api.keyring import ROLES, parse, read_text
from selflearn.api.origins import LOOPBACK
from selflearn.config import ApiSettings, ServingSettings
from selflearn.doctor.finding import Finding
from selflearn.errors import ConfigurationError

_MAKE = "selflearn keys add NAME --role operator"


def check_keys(api: ApiSettings) -> Finding:
    """Whether the key file can be read, is its owner's alone, and lets an operator in."""
    file = api.keys_file
    if file is None:
        return Finding("keys", "ok", "none are configured: whoever reaches the daemon may do everything")
    try:
        keys, mode = parse(read_text(file), file), file.stat()
    except ConfigurationError as error:
        return Finding("keys", "fail", str(error), _MAKE)
    if mode.st_mode & stat.S_IWOTH:
        return Finding("keys", "fail", f"everybody may write {file}, and so let themselves in", f"chmod 600 {file}")
    counted = {role: sum(key.role == role for key in keys) for role in ROLES}
    found = f"{file}: " + (", ".join(f"{number} {role}" for role, number in counted.items() if number) or "no keys")
    if not keys:
        return Finding("keys", "fail", found, _MAKE)
    if mode.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("keys", "warn", f"{found}; others than its owner can use it", f"chmod 600 {file}")
    if not counted["operator"]:
        return Finding("keys", "warn", f"{found}; nobody may promote, roll back or forget", _MAKE)
    return Finding("keys", "ok", found)


def check_access(serving: ServingSettings, api: ApiSettings) -> Finding:
    """Whether a daemon beyond this machine asks for keys: it does not start otherwise."""
    found = f"{serving.host}:{serving.port}"
    if serving.host in LOOPBACK:
        return Finding("address", "ok", f"{found}, from this machine alone")
    if api.keys_file is None:
        advice = f"Make keys ({_MAKE} --keys-file FILE) and set api.keys_file, or listen on 127.0.0.1."
        return Finding("address", "fail", f"{found}, beyond this machine and without keys", advice)
    return Finding("address", "ok", f"{found}, with keys")


def check_port(serving: ServingSettings, state: Path, running: str | None) -> Finding:
    """Whether the port is free, or our daemon is there already.

    ``running`` is the state directory of the daemon that answers there, "" of one that tells it to operators alone,
    None where none answers.
    """
    place = f"{serving.host}:{serving.port}"
    if running == "":
        return Finding("port", "ok", f"a daemon answers at {place}; whose it is, it tells operators alone")
    if running is not None:
        if Path(running) == state.resolve():
            return Finding("port", "ok", f"our daemon answers at {place}")
        found = f"the daemon at {place} runs on another state directory, {running}"
        return Finding("port", "fail", found, "Name the one that you mean with --state, or take another serving.port.")
    try:
        family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((serving.host, serving.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = f"Find it (ss -ltnp 'sport = :{serving.port}') and end it, or take another serving.port."
            return Finding("port", "fail", f"something that is no daemon of selflearn has {place}", advice)
        found = f"{place} cannot be listened on: {os.strerror(error.errno or 0)}"
        return Finding("port", "fail", found, "Take another serving.host or serving.port.")
    return Finding("port", "ok", f"{place} is free")
