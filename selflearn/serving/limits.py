"""What every engine refuses in the same words."""

from __future__ import annotations

from selflearn.errors import BadRequest
from selflearn.serving.engine import TokenRequest


def check_fits(request: TokenRequest, *, vocabulary: int, capacity: int) -> None:
    """Raises ``BadRequest`` for a request that can never be served."""
    if not request.prompt_ids or request.max_new_tokens < 1:
        found = f"{len(request.prompt_ids)} prompt tokens and max_tokens {request.max_new_tokens}"
        param = "max_tokens" if request.prompt_ids else "messages"
        raise BadRequest(f"Found {found}; both must be at least 1.", param=param, code="invalid_request")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        message = f"A token id lies outside the vocabulary of {vocabulary}."
        raise BadRequest(message, param="messages", code="bad_token")
    total = len(request.prompt_ids) + request.max_new_tokens
    if total > capacity:
        raise BadRequest(
            f"The prompt has {len(request.prompt_ids)} tokens and max_tokens is {request.max_new_tokens}, together "
            f"{total}; at most {capacity} fit. Shorten the messages or lower max_tokens.",
            param="messages",
            code="context_length_exceeded",
        )
