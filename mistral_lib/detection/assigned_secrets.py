"""Values that a name marks as secret: `password: …`, `API_KEY=…`, `<token>…</token>`, `name: DB_PASSWORD, value: …`."""

import re

from mistral_lib.detection.rules import Rule, Span, entropy, mixed, spellings, words
from mistral_lib.detection.secret_values import IDENTIFIER, NO_PASSWORD, PIECES, PLACE, WORD_AND_NUMBER, WORDS, is_password, is_placeholder

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
    r"(?:(?<=[\"']),[ \t]{0,2}(?=[\"'])|[ \t]{0,4}+(?::=|=>|={1,3}|:|：|=)[ \t]{0,4}+|[\s,]{0,40}[\"']?value[\"']?\s?[:=]\s?|\s{1,40}value:\s?|>|[ (](?=[\"']))"
)
VALUE = (
    r"(?:[brf]?\\?(?:\"(?P<double>[^\"\s\\]{6,4096}+)|(?P<quote>['`])(?P<single>[^'`\s\\]{6,4096}+))"
    r"|(?P<bare>(?:[^\s\"'`,;<>(){}\[\]\\|&]|&(?![\w.-]{1,64}=)){6,4096}+))(?P<after>.?)"
)


def _assigned(stem: str, before: str, form: str) -> Rule:
    """The rule for one spelling of a stem. It begins with literal characters, which are searched fastest; then what is before is looked at."""
    pattern = re.compile(rf"(?P<name>{re.escape(form)}){END}{BETWEEN}{VALUE}")
    preceded = re.compile(rf"(?:{before}){re.escape(form)}\Z")

    def span(match: re.Match[str]) -> Span | None:
        named = not before or preceded.search(match.string, max(0, match.start() - 32), match.end("name"))
        return assigned_secret(match, stem) if named else None

    return Rule("secret_assignment", "<SECRET>", (form,), pattern, span)


# The last word of a name that says where a secret is or how it looks: PASSWORD_FILE, passwordRegex
NO_SECRET = words(
    """path dir file url uri arn ref name type format pattern regex regexp label column field policy hint header encoder binding rotation
    count ratio rate length min max endpoint"""
)
OTHER_KEYS = re.compile(r"(?i)(?:^|[_-])(?:sort|kms|primary|foreign|partition|cache)[_-]key")
PARTS = re.compile("[A-Z]?[a-z0-9]+|[A-Z0-9]+")


def names_no_secret(stem: str, rest: str) -> bool:
    """Whether a name that continues with `rest` after its stem is another word (PAT|H, TOKEN|IZER) or names no secret (PASS_RATE)."""
    if stem.isupper() and rest[:1].isalpha() and rest.lower() != "s":
        return True
    parts = PARTS.findall(rest)
    return bool(parts) and (parts[-1].lower() in NO_SECRET or parts[-1].lower().removesuffix("s") in NO_SECRET)


def assigned_secret(match: re.Match[str], stem: str) -> Span | None:
    """The assigned value if it looks like a secret, and not like an example of a manual, a type, a call, a path or a variable."""
    group = next(name for name in ("double", "single", "bare") if match[name] is not None)
    value = match[group].rstrip(".:*") if group == "bare" else match[group]
    closing = ('"', "\\") if group == "double" else (match["quote"], "\\")
    closed = match["after"] not in ("(", "[", "{") if group == "bare" else match["after"] in closing
    if (
        names_no_secret(match["name"], match["rest"])
        or len(value) < 6
        or (not closed and not (group != "bare" and len(value) >= 200))
        or is_placeholder(value)
        or PLACE.match(value)
    ):
        return None
    start = match.start(group)
    name = re.search(r"[\w-]*\Z", match.string[max(0, match.start() - 32) : match.start()])[0] + match["name"] + match["rest"]
    if stem == "key" and OTHER_KEYS.search(name):
        return None
    secret = _password(match, name, value, group == "bare") if stem in OF_PASSWORDS else _key(stem, value, group == "bare")
    return (start, start + len(value)) if secret else None


OF_KEYS = frozenset({"secret", "token", "credential", "apikey", "pat", "key", "sessionid", "session_id", "auth"})
OF_PASSWORDS = frozenset(STEMS) - OF_KEYS
SHORTEST_KEY = dict.fromkeys(("sessionid", "session_id", "auth", "pat"), 20)  # characters; of the other stems 12


def _password(match: re.Match[str], name: str, value: str, bare: bool) -> bool:
    if not is_password(value):
        return False
    if not bare or name.isupper() or mixed(value):
        return True
    # In code a bare word is a variable. It is a password if it is all of a line `password: Winter2024`.
    line = match.string.rfind("\n", 0, match.start()) + 1
    alone = not match.string[line : match.start()].strip(" \t-\"'") and match["after"] == ""
    if IDENTIFIER.match(value):
        return alone and WORD_AND_NUMBER.match(value) is not None and not NO_PASSWORD.search(value)
    return re.search("[0-9]", value) is not None and not PIECES.match(value)


def _key(stem: str, value: str, bare: bool) -> bool:
    value = value.removeprefix("base64:")
    if stem == "pat" and re.search(r"[^\w.=+/-]", value):
        return False  # a pattern
    digit, symbol = re.search("[0-9]", value), re.search(r"[^\w.-]", value)
    if not digit or not re.search("[A-Za-z]", value) or len(value) < SHORTEST_KEY.get(stem, 12) or WORDS.match(value):
        return False
    if bare and symbol and not re.fullmatch(r"[\w+/=.~!%-]+", value):
        return False
    if bare and IDENTIFIER.match(value) and ("." in value or (len(value) < 20 and not mixed(value))):
        return False  # a variable or an attribute
    return (entropy(value) >= 3.0 and not PIECES.fullmatch(value)) or re.fullmatch("[0-9a-f]{24,}", value) is not None


ASSIGNMENTS = tuple(_assigned(stem, before, form) for stem, before in STEMS.items() for form in spellings(stem))


def env_value(match: re.Match[str]) -> Span | None:
    """A value with a symbol at which the rules above would end. What looks like a call is code."""
    value = match["value"]
    if names_no_secret(match["stem"], match["rest"]):
        return None
    odd = re.search(r"[,;()\[\]{}|&<>\\]", value) and not re.search(r"\w\(.*\)\Z", value)
    return match.span("value") if odd and re.search("[0-9]", value) and is_password(value) else None


# A line of an .env file, NAME=value: the value is the rest of the line, whatever symbols it has.
ENV_LINE = Rule(
    "secret_assignment",
    "<SECRET>",
    ("PASS", "SECRET", "TOKEN", "KEY", "PWD", "_PW"),
    re.compile(r"^[ \t]{0,8}(?:export |set |ENV )?[A-Z][A-Z0-9_]{0,60}?(?P<stem>PASS(?:WORD|WD|PHRASE)?|SECRET|TOKEN|PWD|_PW|_KEY)(?P<rest>[A-Z0-9_]{0,24})=(?P<value>[^\s\"'`$<{]\S{7,512})[ \t]*$", re.M),
    env_value,
)  # fmt: skip

RULES = (ENV_LINE, *ASSIGNMENTS)
