"""Generations (a version being served), the traffic between them, and the engines that run them.

It turns token ids into token ids and text, under the version that it was told to open. It does not know what a
rollout, a learner, an interaction or HTTP is. The embedded engine is ``selflearn.serving.transformers_engine``; it is
imported by name, because it needs torch and these names do not.
"""

from __future__ import annotations

from selflearn.serving.engine import Engine, Generation, TokenChunk, TokenRequest
from selflearn.serving.text import Detokenizer
from selflearn.serving.traffic import Answer, TextChunk, Traffic

__all__ = ["Answer", "Detokenizer", "Engine", "Generation", "TextChunk", "TokenChunk", "TokenRequest", "Traffic"]
