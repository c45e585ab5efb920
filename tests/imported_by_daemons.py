"""What every daemon imports on its start, for :mod:`tests.forked`; importing it starts no thread."""

from __future__ import annotations

import transformers.models.llama.modeling_llama

import selflearn.api.app
import selflearn.cli.main
import selflearn.cli.serve
import selflearn.daemon.composition
import selflearn.models.base
import selflearn.serving.transformers_engine

__all__ = ["selflearn", "transformers"]
