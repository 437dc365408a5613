"""Secrets in headers (`Authorization: …`, `Cookie: …`) and in sentences: "the password is …", "key 7Qx…"."""

import re

from mistral_lib.detection.assigned_secrets import PASSWORDS
from mistral_lib.detection.rules import Rule, Span, mixed, spellings
from mistral_lib.detection.secret_values import PIECES, PLACE, WORD_AND_NUMBER, WORDS, is_password, is_placeholder, is_random


def aws_secret(match: re.Match[str]) -> Span | None:
    return match.span("value") if is_random(match["value"]) and not match["value"].endswith("EXAMPLEKEY") else None


def header_value(match: re.Match[str]) -> Span | None:
    return match.span("value") if is_random(match["value"]) and not WORDS.match(match["value"]) else None


def cookies(match: re.Match[str]) -> Span | None:
    """All cookies of a header if one of them is a generated value; `theme=dark` is none."""
    values = re.findall(r"=([A-Za-z0-9%+/._~-]{16,})", match["value"])
    return match.span("value") if any(map(is_random, values)) else None


def told_password(match: re.Match[str]) -> Span | None:
    """A password in a sentence: digits with capitals and small letters or with symbols, unlike the words of a text (SHA-256-hashed)."""
    start, value = match.start("value"), match["value"].rstrip(".,;:)?")
    if (
        not re.search("[0-9]", value)
        or (PIECES.match(value) and not WORD_AND_NUMBER.match(value))
        or not is_password(value)
        or re.search(r"[(=\[{]", value)
    ):
        return None
    generated = mixed(value) or re.search(r"[^\w.:/-]", value) or re.match("[A-Z][a-z]{3,}[0-9]{2,6}\\Z", value)
    return (start, start + len(value)) if generated else None


TWO_WORDS = re.compile(r"(?i:\b(?:api|access|secret|private|auth(?:entication)?|client|signing|encryption|account|refresh|deploy)[ _-])\Z")


def told_key(match: re.Match[str]) -> Span | None:
    """A generated value after a word: `key 7Qx…`. Digits and small letters alone may be a hash, unless two words name it: `api key`."""
    start, value = match.start("value"), match["value"].rstrip(".")
    if (
        PLACE.match(value)
        or is_placeholder(value)
        or PIECES.fullmatch(value)
        or not is_random(value)
        or not mixed(re.sub("[^A-Za-z0-9]", "", value))
    ):
        return None
    both_cases = re.search("[a-z]", value) and re.search("[A-Z]", value)
    named = len(value) >= 32 and TWO_WORDS.search(match.string, max(0, match.start() - 16), match.start())
    return (start, start + len(value)) if both_cases or named else None


AWS_SECRET = Rule(
    "aws_secret",
    "<AWS_SECRET>",
    ("aws", "AWS", "ecretAccessKey"),
    re.compile(r"(?:[aA][wW][sS]|[sS]ecretAccessKey)[^\n=:]{0,40}?(?:=>?|:)\s{0,4}\\?[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
    aws_secret,
)
BEARER = Rule(
    "bearer_token",
    "<BEARER_TOKEN>",
    ("earer ", "EARER ", "asic ", ": Token ", ": token ", "igest ", "piKey "),
    re.compile(
        r"(?:[bB]earer|BEARER|(?<=[:\"'] )(?:[bB]asic|[tT]oken|[aA]piKey|[dD]igest)|(?<=[:\"'])(?:[bB]asic|[tT]oken)) {1,4}(?P<value>[A-Za-z0-9._~+/-]{16,4096}+={0,2})"
    ),
    header_value,
)
COOKIE = Rule(
    "cookie",
    "<COOKIE>",
    (*spellings("cookie: ", "cookie': "), 'ookie": ', "okie: "),
    re.compile(r"(?i:\b(?:set-)?cookie)[\"']?: ?[\"']?(?P<value>[\w.-]{1,64}=[^\n\"']{16,4096})"),
    cookies,
)
PASSWORD = Rule(
    "password",
    "<PASSWORD>",
    spellings(*PASSWORDS, "contraseña", "mot de passe", "senha"),
    re.compile(
        r"\b(?i:password|passwd|passphrase|passwort|kennwort|passcode|contraseña|mot de passe|senha)(?i: (?:for|di|de|für|pour|para) [\w. -]{1,40}?)?(?i: ?(?:is|was|ist|lautet|war|est|es|é|è|to|→|->)(?: now)?:?|,|:)? [\"'“‘`]?(?P<value>[^\s\"'“”‘’`]{6,64})"
    ),
    told_password,
)
APP_PASSWORD = Rule(  # of Google: four groups of four letters
    "password",
    "<PASSWORD>",
    ("pp password", "pp Password", "pp-password", "APP PASSWORD", "pp-Passwort", "APP_PASSWORD", "app_password"),
    re.compile(r"(?i:app[ _-]?passwor[dt])(?: is|[\"']?\s?[:=])\s?[\"'“‘`]?(?P<value>[a-z]{4}(?: [a-z]{4}){3})(?![a-z]| [a-z])"),
)
KEYS = tuple(
    Rule("secret_assignment", "<SECRET>", (word,),
         re.compile(rf"{word}(?i:(?:is|was|id|ist|=|value):? )?[\"'`]?(?P<value>[A-Za-z0-9_+/=.~-]{{20,512}})(?![A-Za-z0-9_])"), told_key)
    for stem in ("key", "token", "secret", "credential") for word in spellings(f"{stem} ", f"{stem}: ")
)  # fmt: skip

HEADERS = (AWS_SECRET, BEARER, COOKIE)  # before assignments, so that they are counted as what they are
SENTENCES = (APP_PASSWORD, PASSWORD, *KEYS)
