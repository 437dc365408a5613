"""Values that a name marks as secret: assignments, settings, headers, and sentences such as "the password is …".

What a manual prints where a secret belongs (your-key, ${DB_PASSWORD}, a type, a call, a path) is documentation and stays.
"""

import re

from mistral_lib.detection.rules import Rule, Span, entropy, mixed, spellings, words

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
WORD_AND_NUMBER = re.compile(r"[A-Z][a-z]{3,}[0-9]{2,6}\Z")  # Winter2024


def is_password(value: str) -> bool:
    """Whether a value could be a password: letters with digits or symbols, no example, no path. A plain word is none."""
    if len(value) < 6 or is_placeholder(value) or PLACE.match(value):
        return False
    return re.search("[A-Za-z]", value) is not None and re.search(r"[0-9]|[^\w.-]", value) is not None


# ------------------------------------------------------------------------------------------------------ assignments
PASSWORDS = ("password", "passwd", "passphrase", "passwort", "kennwort", "passcode", "pwd")
# Stems in any spelling; what must stand before a stem so that it names a secret.
STEMS = {
    **dict.fromkeys((*PASSWORDS, "contraseña", "contrasena", "wachtwoord", "senha", "hasło", "пароль", "密码", "密碼", "パスワード", "비밀번호"), ""),
    "pass": r"(?<![A-Za-z])", "pw": r"(?<![A-Za-z])", "secret": "", "token": "", "credential": "", "apikey": "", "pat": r"(?<=[_-])",
    "key": r"(?i:(?:api|access|account|private|auth|secret|encrypt(?:ion)?|signing|master|shared|service|client|session|consumer|app(?:lication)?"
           r"|deploy|subscription|license|storage|functions?|sas|webhook|admin|root|openai|azure)[_ -]?|(?<![a-z])(?-i:[A-Z][A-Z0-9]{1,24}_))",
    "sessionid": "", "session_id": "", "auth": r"(?<=[\"'_])", "mot de passe": "",
}  # fmt: skip
END = r"(?P<rest>(?:s|[_-][A-Za-z0-9_-]{0,24}|[A-Z][A-Za-z0-9_]{0,24})?+)"
BETWEEN = (
    r"(?:[\"']\]|\\?[\"'`]|\])?+"
    r"(?:[ \t]{0,4}+(?::=|=>|={1,3}|:|：|=)[ \t]{0,4}+|[\s,]{0,40}[\"']?value[\"']?\s?[:=]\s?|\s{1,40}value:\s?|>|[ (](?=[\"']))"
)
VALUE = (
    r"(?:[brf]?\\?(?:\"(?P<double>[^\"\s\\]{6,4096}+)|(?P<quote>['`])(?P<single>[^'`\s\\]{6,4096}+))"
    r"|(?P<bare>(?:[^\s\"'`,;<>(){}\[\]\\|&]|&(?![\w.-]{1,64}=)){6,4096}+))(?P<after>.?)"
)


def _assigned(stem: str, before: str, form: str) -> Rule:
    """The rule for one spelling of a stem. It begins with literal characters, which are searched fastest."""
    start = re.escape(form)
    lookbehind = rf"(?P<name>{start})"
    pattern = re.compile(rf"{lookbehind}{END}{BETWEEN}{VALUE}")
    named = re.compile(rf"(?:{before})\Z") if before and not before.startswith("(?<") else None
    guard = re.compile(rf"{before}{start}") if before.startswith("(?<") else None

    def span(match: re.Match[str]) -> Span | None:
        start = match.start()
        if (named and not named.search(match.string, max(0, start - 32), start)) or (guard and not guard.match(match.string, start)):
            return None
        return assigned_secret(match, stem)

    return Rule("secret_assignment", "<SECRET>", (form,), pattern, span)


def assigned_secret(match: re.Match[str], stem: str) -> Span | None:
    """The assigned value if it looks like a secret, and not like an example of a manual, a type, a call, a path or a variable."""
    group = next(name for name in ("double", "single", "bare") if match[name] is not None)
    value = match[group].rstrip(".:*") if group == "bare" else match[group]
    closing = ('"', "\\") if group == "double" else (match["quote"], "\\")
    closed = match["after"] not in ("(", "[", "{") if group == "bare" else match["after"] in closing
    if len(value) < 6 or (not closed and not (group != "bare" and len(value) >= 200)) or is_placeholder(value) or PLACE.match(value):
        return None
    start = match.start(group)
    name = re.search(r"[\w-]*\Z", match.string[max(0, match.start() - 32) : match.start()])[0] + match["name"] + match["rest"]
    secret = _password(match, name, value, group == "bare") if stem in WEAK_STEMS else _key(name, value, group == "bare", stem)
    return (start, start + len(value)) if secret else None


WEAK_STEMS = frozenset(STEMS) - {"secret", "token", "credential", "apikey", "pat", "key", "sessionid", "session_id", "auth"}  # of passwords


def _password(match: re.Match[str], name: str, value: str, bare: bool) -> bool:
    if not is_password(value):
        return False
    if not bare or name.isupper() or mixed(value):
        return True
    # In code a bare word is a variable. It is a password if it is all of a line `password: Winter2024`.
    line = match.string.rfind("\n", 0, match.start()) + 1
    alone = not match.string[line : match.start()].strip(" \t-\"'") and match["after"] == ""
    if IDENTIFIER.match(value):
        return alone and WORD_AND_NUMBER.match(value) is not None
    return re.search("[0-9]", value) is not None and not PIECES.match(value)


def _key(name: str, value: str, bare: bool, stem: str) -> bool:
    digit, symbol = re.search("[0-9]", value), re.search(r"[^\w.-]", value)
    shortest = 20 if stem in ("sessionid", "session_id", "auth", "pat") else 12
    if not digit or not re.search("[A-Za-z]", value) or len(value) < shortest or WORDS.match(value):
        return False
    if bare and symbol and not re.fullmatch(r"[\w+/=.~!%-]+", value):
        return False
    if bare and IDENTIFIER.match(value) and ("." in value or (len(value) < 20 and not mixed(value))):
        return False  # a variable or an attribute
    return (entropy(value) >= 3.0 and not PIECES.fullmatch(value)) or re.fullmatch("[0-9a-f]{24,}", value) is not None


ASSIGNMENTS = tuple(_assigned(stem, before, form) for stem, before in STEMS.items() for form in spellings(stem))

# A line of an .env file, NAME=value: the value is the rest of the line, whatever symbols it has.
ENV_LINE = Rule(
    "secret_assignment",
    "<SECRET>",
    ("PASS", "SECRET", "TOKEN", "KEY", "PWD", "_PW"),
    re.compile(r"^[ \t]{0,8}(?:export |set |ENV )?[A-Z][A-Z0-9_]{0,60}?(?:PASS(?:WORD|WD|PHRASE)?|SECRET|TOKEN|PWD|_PW|_KEY)[A-Z0-9_]{0,24}=(?P<value>[^\s\"'`$<{]\S{7,512})[ \t]*$", re.M),
    lambda match: match.span("value") if _env_value(match["value"]) else None,
)  # fmt: skip


def _env_value(value: str) -> bool:
    symbols = re.search(r"[,;()\[\]{}|&<>\\]", value) is not None  # without one, the rules above see the complete value
    return symbols and is_password(value) and re.search("[0-9]", value) is not None and not re.search(r"\w\(.*\)\Z", value)


# ---------------------------------------------------------------------------------------------------------- headers
AWS_SECRET = Rule(
    "aws_secret",
    "<AWS_SECRET>",
    ("aws", "AWS", "ecretAccessKey"),
    re.compile(r"(?:[aA][wW][sS]|[sS]ecretAccessKey)[^\n=:]{0,40}?(?:=>?|:)\s{0,4}\\?[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
    lambda match: match.span("value") if _random(match["value"]) and not match["value"].endswith("EXAMPLEKEY") else None,
)


def _random(value: str) -> bool:
    mixture = re.search("[0-9]", value) and re.search("[A-Za-z]", value) and len(re.findall("[A-Z0-9]", value)) >= 4
    return bool(mixture) and entropy(value) >= 3.0


BEARER = Rule(
    "bearer_token",
    "<BEARER_TOKEN>",
    ("earer ", "EARER ", "asic ", ": Token ", ": token ", "igest ", "piKey "),
    re.compile(
        r"(?:[bB]earer|BEARER|(?<=[:\"'] )(?:[bB]asic|[tT]oken|[aA]piKey|[dD]igest)|(?<=[:\"'])(?:[bB]asic|[tT]oken)) {1,4}(?P<value>[A-Za-z0-9._~+/-]{16,4096}+={0,2})"
    ),
    lambda match: match.span("value") if _random(match["value"]) and not WORDS.match(match["value"]) else None,
)
COOKIE = Rule(
    "cookie",
    "<COOKIE>",
    (*spellings("cookie: ", "cookie': "), 'ookie": ', "okie: "),
    re.compile(r"(?i:\b(?:set-)?cookie)[\"']?: ?[\"']?(?P<value>[\w.-]{1,64}=[^\n\"']{16,4096})"),
    lambda match: (
        match.span("value") if any(_random(value) for value in re.findall(r"=([A-Za-z0-9%+/._~-]{16,})", match["value"])) else None
    ),
)

# -------------------------------------------------------------------------------------------------------- sentences
TOLD = Rule(
    "password",
    "<PASSWORD>",
    spellings(*PASSWORDS, "contraseña", "mot de passe", "senha"),
    re.compile(
        r"\b(?i:password|passwd|passphrase|passwort|kennwort|passcode|contraseña|mot de passe|senha)(?i: for [\w. -]{1,40}?)?(?i: ?(?:is|was|ist|lautet|war|est|es|é|to|→|->)(?: now)?:?|,|:)? [\"'“‘`]?(?P<value>[^\s\"'“”‘’`]{6,64})"
    ),
    lambda match: _told(match),
)  # fmt: skip


def _told(match: re.Match[str]) -> Span | None:
    start, value = match.start("value"), match["value"].rstrip(".,;:)?")
    both = re.search("[a-z]", value) and re.search("[A-Z]", value)
    strong = re.search("[0-9]", value) and (both or re.search(r"[^\w.:/-]", value)) and not PIECES.match(value)
    if (
        not strong
        or not is_password(value)
        or re.search(r"[(=\[{]", value)
        or (both and not mixed(value) and not re.search(r"[^\w-]", value))
    ):
        return (start, start + len(value)) if strong and WORD_AND_NUMBER.match(value) and is_password(value) else None
    return start, start + len(value)


TWO_WORDS = re.compile(r"(?i:\b(?:api|access|secret|private|auth(?:entication)?|client|signing|encryption|account|refresh|deploy)[ _-])\Z")


def _unprefixed(match: re.Match[str]) -> Span | None:
    """A generated value after a word: `key 7Qx…`. Digits and small letters alone may be a hash, unless two words name it: `api key`."""
    start, value = match.start("value"), match["value"].rstrip(".")
    plain = re.sub("[^A-Za-z0-9]", "", value)
    if PLACE.match(value) or is_placeholder(value) or PIECES.fullmatch(value) or not _random(value) or not mixed(plain):
        return None
    both_cases = re.search("[a-z]", value) and re.search("[A-Z]", value)
    named = len(value) >= 32 and TWO_WORDS.search(match.string, max(0, match.start() - 16), match.start())
    return (start, start + len(value)) if both_cases or named else None


UNPREFIXED = tuple(
    Rule("secret_assignment", "<SECRET>", (word,),
         re.compile(rf"{word}(?i:(?:is|was|id|ist|=|value):? )?[\"'`]?(?P<value>[A-Za-z0-9_+/=.~-]{{20,512}})(?![A-Za-z0-9_])"), _unprefixed)
    for stem in ("key", "token", "secret", "credential") for word in spellings(f"{stem} ", f"{stem}: ")
)  # fmt: skip

RULES = (AWS_SECRET, BEARER, COOKIE, ENV_LINE, *ASSIGNMENTS, TOLD, *UNPREFIXED)
