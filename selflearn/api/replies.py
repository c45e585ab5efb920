"""JSON answers whose numbers may come from a diverged training run: NaN and infinities become null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


def reply(data: Any, status: int = 200) -> JSONResponse:
    """Returns ``data`` as JSON that every client can parse."""
    return JSONResponse(_finite(data), status)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
