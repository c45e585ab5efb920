"""A daemon that serves a language model and lets it learn from its own use, safely.

The rooms follow the loop: serving → experience → learning → judging → versions. ``docs/decisions.md`` says why.
"""
