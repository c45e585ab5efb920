"""Keys and tokens whose form says what they are: those of known providers, JSON Web Tokens, private keys in PEM."""

from __future__ import annotations

import base64
import json
import re
import string
import zlib
from collections.abc import Iterator
from typing import Final

from selflearn.experience.detectors.finding import Finding

#: Keys have no white space; only in runs as long as the shortest key is looked for one.
_RUN: Final = re.compile(r"[A-Za-z0-9_.:/+~-]{18,}")
#: Fewer different characters than this make a placeholder (``ghp_xxxxxxxx``), not a key.
_LEAST_VARIETY: Final = 8

#: What may follow ``(?<![A-Za-z0-9])``, as the providers or the rules of secret scanners describe it.
_FORMS: Final = (
    # OpenAI, Anthropic, OpenRouter
    r"(?<![_-])sk-(?:proj|svcacct|admin|ant|or)-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}",
    r"(?<![_-])sk-(?=[A-Za-z]*[0-9])[A-Za-z0-9]{20,}",  # OpenAI (old), DeepSeek and others of that form
    r"(?<![_-])sl-[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",  # our own
    r"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{30,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_-]{20,}(?:\.[a-z0-9.]{9,20})?",  # GitLab
    r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{20,}",  # Slack
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9_/+-]{30,}",
    r"[sr]k_(?:live|test|prod)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}",  # Stripe
    r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,}",  # Google
    r"hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z]{34}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])",
    r"pypi-Ag[A-Za-z0-9_-]{60,}",
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",  # SendGrid
    r"SK[0-9a-f]{32}(?![A-Za-z0-9])",  # Twilio
    r"key-[0-9a-f]{32}(?![A-Za-z0-9])|[0-9a-f]{32}-us[0-9]{1,2}(?![A-Za-z0-9])",  # Mailgun, Mailchimp
    r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}",  # Azure client secret
    r"[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}(?![A-Za-z0-9])",  # Azure DevOps
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])",  # Telegram
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}",  # Shopify
    r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}",  # Square
    r"dapi[0-9a-f]{32}(?![A-Za-z0-9])",  # Databricks
    r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}|glc_[A-Za-z0-9+/]{32,}",  # Grafana
    r"hv[sbr]\.[A-Za-z0-9_-]{24,}",  # HashiCorp Vault
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}",  # Terraform
    # Groq, Replicate, xAI, Perplexity
    r"gsk_[A-Za-z0-9]{48,}|r8_[A-Za-z0-9]{37}|xai-[A-Za-z0-9]{60,}|pplx-[A-Za-z0-9]{40,}",
    r"lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}",  # Linear, Notion, Postman
    # Docker, Gems, Pulumi, Supabase
    r"dckr_pat_[A-Za-z0-9_-]{27}|rubygems_[0-9a-f]{48}|pul-[0-9a-f]{40}|sbp_[0-9a-f]{40}",
    # Tailscale, New Relic, Atlassian
    r"tskey-[a-z]+-[A-Za-z0-9]{8,}-[A-Za-z0-9]{20,}|NRAK-[A-Z0-9]{27}|ATATT3[A-Za-z0-9_-]{60,}",
)
_KEY: Final = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_FORMS)})")

#: GitHub's and npm's tokens end in a checksum of what is between prefix and it: CRC-32 in base 62.
_CHECKED: Final = re.compile(r"(?:gh[pousr]|npm)_([A-Za-z0-9]{30})([A-Za-z0-9]{6})")
_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase

_TOKEN: Final = re.compile(r"(?<![\w-])(eyJ[A-Za-z0-9_-]{8,})\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}")
_CREDENTIALS: Final = re.compile(
    r"b(?<![A-Za-z0-9].)(?:earer[ \t]{1,8}((?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{16,}=*)"
    r"|asic[ \t]{1,8}([A-Za-z0-9+/]{8,}=*))",
    re.IGNORECASE,
)

_PEM_BEGIN: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END: Final = re.compile(r"-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
#: What a key's text may go on with where its end is missing: headers, and lines of base 64 (\n may be spelled out).
_PEM_REST: Final = re.compile(r"(?:(?:\s|\\[nr])++(?:[A-Za-z-]{1,20}: [^\n]{0,200}|[A-Za-z0-9+/]{16,}+=*+))*+")
_PEM_LONGEST: Final = 20_000
_AGE_KEY: Final = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}(?![A-Z0-9])")


def find_keys(text: str) -> Iterator[Finding]:
    """Keys of known providers, and tokens whose checksum holds even where they are glued to other words."""
    for run in _RUN.finditer(text):
        for match in _KEY.finditer(text, *run.span()):
            if len(set(match.group())) >= _LEAST_VARIETY:
                yield Finding(*match.span(), "api-key")
        for match in _CHECKED.finditer(text, *run.span()):
            if _base62(zlib.crc32(match.group(1).encode())) == match.group(2):
                yield Finding(*match.span(), "api-key")


def find_tokens(text: str) -> Iterator[Finding]:
    """JSON Web Tokens whose header decodes, and credentials after ``Bearer`` and ``Basic``."""
    if "eyJ" in text:
        for match in _TOKEN.finditer(text):
            if _is_token_header(match.group(1)):
                yield Finding(*match.span(), "token")
    for match in _CREDENTIALS.finditer(text):
        if match.group(1) or ":" in _decoded(match.group(2)):
            yield Finding(*match.span(match.lastindex or 0), "token")


def find_private_keys(text: str) -> Iterator[Finding]:
    """Private keys in PEM, also those cut off before their end; age's secret keys."""
    if "PRIVATE KEY" in text:
        yield from _pem_blocks(text)
    if "AGE-SECRET-KEY-1" in text:
        for match in _AGE_KEY.finditer(text):
            yield Finding(*match.span(), "private-key")


def _pem_blocks(text: str) -> Iterator[Finding]:
    ends = [match.end() for match in _PEM_END.finditer(text)]
    covered, next_end = 0, 0
    for match in _PEM_BEGIN.finditer(text):
        if match.start() < covered:
            continue
        while next_end < len(ends) and ends[next_end] < match.end():
            next_end += 1
        if next_end < len(ends) and ends[next_end] - match.start() <= _PEM_LONGEST:
            covered = ends[next_end]
        else:
            rest = _PEM_REST.match(text, match.end())
            covered = rest.end() if rest else match.end()
            if covered == match.end():
                continue  # somebody speaks of such keys
        yield Finding(match.start(), covered, "private-key")


def _is_token_header(part: str) -> bool:
    """Whether it is a JSON object that names an algorithm, in base 64."""
    try:
        header = json.loads(_decoded(part))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _decoded(part: str) -> str:
    """What base 64 (either alphabet, with or without padding) says in UTF-8; empty if it says nothing."""
    try:
        return base64.b64decode(part.rstrip("=") + "=" * (-len(part.rstrip("=")) % 4), b"-_").decode()
    except ValueError:
        return ""


def _base62(number: int) -> str:
    digits = []
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
