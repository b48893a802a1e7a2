"""Find secrets, e-mail addresses and phone numbers of people in texts.

The list is our own. `detect-secrets` 1.5.0, of 2024, has no pattern for tokens of Hugging Face, Google, and today's
tokens of OpenAI and GitHub; most of its patterns miss a token in lower case, as a vocabulary has it; and it knows
neither addresses nor phone numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Formats that their providers publish. An underscore may precede a token, as in `run_hf_...`, so `\b` does not work.
_TOKENS = {
    "Anthropic, OpenAI": r"sk-[\w-]{32,}",
    "AWS": r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|aws_secret_access_key\W{1,5}[A-Za-z0-9/+]{40}",
    "GitHub": r"gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,}",
    "GitLab": r"gl(?:pat|ptt|dt|rt|cbt|oas|soat|agent)-[\w-]{20,}",
    "Google": r"AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}",
    "Hugging Face": r"(?:hf_(?:oauth_|jwt_)?|api_org_)[A-Za-z0-9]{16,}",
    "JWT": r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}",
    "npm, PyPI": r"npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{50,}",
    "SendGrid, Twilio": r"SG\.[\w-]{16,}\.[\w-]{16,}|(?:AC|SK)[0-9a-f]{32}(?![A-Za-z0-9])",
    "Slack": r"xox[abeoprs]-[\w-]{10,}|hooks\.slack\.com/services/T\w+/B\w+/\w+",
    "Stripe": r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{16,}",
    "Telegram": r"\d{8,10}:AA[\w-]{33}",
    "PEM": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
    "password": r"(?:password|passwd|pwd|api_?key|(?:access|auth|secret)_?(?:key|token))"
    r"(?:\s?=\s?[\"']?|[\"']\s?[:=]\s?[\"']|:\s?(?=\S*\d))(?!none|null|true|false|[\w.]+\()[^\s\"'<{$*.,()\[\]]{4,}",
    "password in an address": r"\b[a-z][a-z+]{2,9}://[^\s/:@]{1,64}:[^\s/@]{3,64}@",
}
# No example of RFC 2606, and no address of git.
_EMAIL = (
    r"(?<![\w.+%-])(?!git@|\S{1,64}@(?:[\w-]+\.)*(?:example\.(?:com|net|org)|invalid|test)\b)"
    r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.[a-z]{2,}"
)
_PHONE = (
    r"(?<![\w.+/-])(?:"
    r"(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,6}"  # +49 30 1234567, 0049301234567
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}"  # (555) 123-4567
    r"|0\d{2,4}[ /-]\d{5,8}"  # 030/1234567
    r")(?![\w.,/-]?\d)"
)
_SECRET = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_TOKENS.values())})", re.IGNORECASE)
_CONTACT = re.compile(f"{_EMAIL}|(?P<phone>{_PHONE})", re.IGNORECASE)
# A word that is random, or a long number: 16 letters and digits that change at least three times, or nine digits.
_RANDOM = re.compile(r"(?=[a-z0-9]{16})(?:[a-z]*\d+[a-z]+){3}|(?<![\d.,])\d{9,}(?![\d.,])", re.IGNORECASE)
_FEWEST_DIGITS = 8  # per phone number


def find_secrets(text: str) -> Iterator[str]:
    """Yield the tokens, keys and passwords in a text."""
    yield from (match.group() for match in _SECRET.finditer(text))


def find_contacts(text: str) -> Iterator[str]:
    """Yield the e-mail addresses and phone numbers in a text."""
    for match in _CONTACT.finditer(text):
        if not match["phone"] or sum(map(str.isdigit, match["phone"])) >= _FEWEST_DIGITS:
            yield match.group()


def is_private(word: str) -> bool:
    """Return whether a word of a vocabulary looks like a secret, or an address or number of a person."""
    if len(word) < 7 or not ("@" in word or any(map(str.isdigit, word)) or ":" in word or "=" in word):
        return False
    return bool(_RANDOM.search(word) or next(find_secrets(word), None) or next(find_contacts(word), None))
