"""Generations (a version being served), the traffic between them, and the engines that run them.

It turns token ids into token ids and text, under the version that it was told to open. It does not know what a
rollout, a learner, an interaction or HTTP is. The engines are ``selflearn.serving.transformers_engine``, imported by
name because it needs torch and these names do not, and ``selflearn.serving.vllm_engine``, which speaks to a server.
"""

from __future__ import annotations

from selflearn.serving.answers import Answer, TextChunk
from selflearn.serving.engine import (
    Constraint,
    Engine,
    Generation,
    Sampling,
    TokenChunk,
    TokenLogprobs,
    TokenRequest,
)
from selflearn.serving.text import Detokenizer
from selflearn.serving.traffic import Traffic

__all__ = [
    "Answer",
    "Constraint",
    "Detokenizer",
    "Engine",
    "Generation",
    "Sampling",
    "TextChunk",
    "TokenChunk",
    "TokenLogprobs",
    "TokenRequest",
    "Traffic",
]
