"""Whether the daemon in this container lives (``live``) or serves (``ready``): exit code 0, else 1 and why.

It asks on loopback, at the port and with or without TLS as the daemon's environment says. ``ready`` needs a key, in the
file that HEALTH_KEY_FILE names. Standard library only: it runs every few seconds.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

PATHS = {"live": "/livez", "ready": "/readyz"}
SECONDS = 4.0


def request_of(what: str, environment: Mapping[str, str]) -> urllib.request.Request:
    """The request that answers ``what``."""
    scheme = "https" if environment.get("SELFLEARN_API__TLS_CERTIFICATE_FILE") else "http"
    port = environment.get("SELFLEARN_SERVING__PORT", "8000")
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}{PATHS[what]}")  # noqa: S310 - http or https
    if what == "ready" and (file := environment.get("HEALTH_KEY_FILE")):
        request.add_header("Authorization", f"Bearer {Path(file).read_text(encoding='utf-8').strip()}")
    return request


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in PATHS:
        print(f"usage: health.py {'|'.join(PATHS)}", file=sys.stderr)
        return 2
    context = ssl._create_unverified_context()  # noqa: S323 - it asks itself, and sends nothing elsewhere
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with direct.open(request_of(arguments[0], os.environ), timeout=SECONDS):
            return 0
    except (OSError, urllib.error.HTTPError) as error:
        print(f"not {arguments[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
