"""Whether a value can be a secret, or is what a manual prints in its place: your-key, ${DB_PASSWORD}, a type, a call, a path."""

import re

from mistral_lib.detection.rules import entropy, words

PLACEHOLDER_WORDS = words(
    """password passwd pass pwd secret mysecret mypassword my_password my-password your_password yourpassword token mytoken my_token
    user username credentials none null true false test testing example changeme change_me dummy foo bar foobar baz string value
    key api_key apikey pw port p xxx xyz passphrase"""
)
PLACEHOLDER_PART = re.compile(
    r"(?i)your[_-]|yours?\b|<|>|\$\{|\{\{|%\(|\.\.\.|\*\*\*|xxxx|change.?me|example|placeholder|dummy|redacted|insert|replace|…|os\.environ|getenv|process\.env|\bmy[_-]"
)


def is_placeholder(value: str) -> bool:
    """Whether a manual would print this where a secret belongs."""
    plain = value.strip("\"'`$%{}[]()")
    return len(set(plain)) < 3 or plain.lower() in PLACEHOLDER_WORDS or PLACEHOLDER_PART.search(value) is not None or value[0] in "$%{["


IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")
WORDS = re.compile(r"[A-Za-z]+(?:[_\-. /:][A-Za-z]+)*[_-]?[0-9]{0,2}\Z")  # token-classification, my_key_2: words, no secret
PIECES = re.compile(r"(?:[A-Za-z]+|[0-9]+)(?:[-_./:](?:[A-Za-z]+|[0-9]+))*\Z")  # SHA-256-hashed
PLACE = re.compile(
    r"(?i)(?:\.{0,2}/|~|[a-z]:\\|https?:|s3:|file:|\w+://|arn:).*|[0-9]{4}-[0-9]{2}-[0-9]{2}T.*|.*\.(?:pem|key|json|ya?ml|txt|py|crt|env|toml|cfg|ini)\Z"
)
WORD_AND_NUMBER = re.compile(r"[A-Z][a-z]{3,}[0-9]{2,6}\Z|[a-z]{4,}[0-9]{1,6}\Z")  # Winter2024, letmein99
NO_PASSWORD = re.compile(
    r"(?i)pass|pw|secret|user|text|string|value|field|param|arg|input|var|str|sha|md5|hash|crypt|base|utf|int|float|pbkdf|key|token|type"
)


def is_password(value: str) -> bool:
    """Whether a value could be a password: letters with digits or symbols, no example, no path. A plain word is none."""
    if len(value) < 6 or is_placeholder(value) or PLACE.match(value):
        return False
    return re.search("[A-Za-z]", value) is not None and re.search(r"[0-9]|[^\w.-]", value) is not None


def is_random(value: str) -> bool:
    """Whether digits and letters are mixed with little repetition."""
    mixture = re.search("[0-9]", value) and re.search("[A-Za-z]", value) and len(re.findall("[A-Z0-9]", value)) >= 4
    return bool(mixture) and entropy(value) >= 3.0
