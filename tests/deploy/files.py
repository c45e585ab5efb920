"""What the files in deploy/ say, read as the programs read them that they are for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from selflearn.config import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = DEPLOY / "container" / "Containerfile"


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))


def settings_named(text: str) -> dict[str, str]:
    """The settings in a text that are given as ``SELFLEARN_SECTION__NAME=value``: by their dotted names."""
    found = re.findall(r"\bSELFLEARN_([A-Z_]+)=([^\s\\\"]+)", text)
    return {name.lower().replace("__", "."): value for name, value in found}


def known_settings() -> set[str]:
    tree = Settings.model_construct().model_dump()
    return {
        name
        for section, value in tree.items()
        for name in ([f"{section}.{key}" for key in value] if isinstance(value, dict) else [section])
    }


def directives(text: str) -> dict[str, str]:
    """The instructions of a Containerfile's last stage that are there once: by their names."""
    last = text.rpartition("\nFROM ")[2].replace("\\\n", " ")
    return dict(re.findall(r"^([A-Z]+) +(.+)$", last, re.MULTILINE))
