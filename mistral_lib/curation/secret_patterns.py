"""Private keys, provider tokens, URL credentials, and assignments that look like secrets.

Source of the token shapes: the providers' pages and the rule set of gitleaks. A value must vary: `hf_xxxxxxxx` in a manual is no token.
"""

import re

from mistral_lib.curation.redaction_rules import ASSIGNMENT, LONG_WORD, Rule, Span, entropy, whole_value, words

FEWEST_DISTINCT = 8  # characters, the prefix included: with fewer it is a row of x in a manual
KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/]{24}")  # is in a private key, but not in a text about one
LEFTOVER_KEY = re.compile(r"(?:\s|\\[nr]|[A-Za-z0-9+/=]{16,}+|[A-Za-z0-9+/]{1,15}={0,2}(?=\s*$))*+")


def varied(match: re.Match[str]) -> Span | None:
    """The value unless it has only a few distinct characters."""
    start, end = whole_value(match)
    return (start, end) if len(set(match.string[start:end])) >= FEWEST_DISTINCT else None


def random_looking(match: re.Match[str]) -> Span | None:
    """For prefixes that also begin ordinary words (`sk-toggle-content`): digits and letters, little repetition."""
    start, end = whole_value(match)
    value = match.string[start:end]
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and len(re.findall("[A-Z0-9]", value)) >= 4
    return (start, end) if mixed and entropy(value) >= 3.0 else None


def key_block(match: re.Match[str]) -> Span | None:
    """The block from BEGIN to END; if END is missing, the header and the rest of the key."""
    if match["end"]:
        return match.span() if KEY_MATERIAL.search(match["body"]) else None
    end = LEFTOVER_KEY.match(match.string, match.start("body")).end()
    return (match.start(), end) if KEY_MATERIAL.search(match.string, match.start("body"), end) else None


def _token(kind: str, needles: tuple[str, ...], pattern: str, span=varied) -> Rule:
    return Rule(kind, f"<{kind.upper()}>", needles, re.compile(r"(?<![A-Za-z0-9])(?:" + pattern + ")"), span, LONG_WORD)


PRIVATE_KEY = Rule(
    "private_key",
    "<PRIVATE_KEY>",
    ("-----BEGIN",),
    # The body ends at the next five dashes, so that a thousand BEGINs without END take linear time.
    re.compile(
        r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----(?P<body>(?:[^-]++|-(?!----))*+)(?P<end>-----END [A-Z0-9 ]{1,60}-----)?"
    ),
    key_block,
)

TOKENS = (
    _token("aws_key", ("AKIA", "ASIA"), r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _token("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), r"gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}"),
    _token("gitlab_token", ("glpat-", "gldt-", "glrt-", "glptt-"), r"gl(?:pat|dt|rt|ptt)-[A-Za-z0-9_.-]{20,255}"),
    _token("slack_token", ("xox", "xapp-", "hooks.slack.com/"), r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,255}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,90}"),
    _token("google_key", ("AIza", "GOCSPX-", "ya29."), r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,40}|ya29\.[A-Za-z0-9_-]{20,512}"),
    _token("stripe_key", ("_live_", "_test_", "whsec_"), r"(?:[spr]k_(?:live|test)_|whsec_)[A-Za-z0-9]{16,255}"),
    _token("anthropic_key", ("sk-ant-",), r"sk-ant-[A-Za-z0-9_-]{20,255}"),
    _token("openai_key", ("sk-",), r"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,255}", random_looking),
    _token("huggingface_token", ("hf_", "api_org_"), r"(?:hf_|api_org_)[A-Za-z0-9]{30,64}(?![A-Za-z0-9_])"),
    _token("npm_token", ("npm_",), r"npm_[A-Za-z0-9]{36,64}"),
    _token("pypi_token", ("pypi-",), r"pypi-[A-Za-z0-9_-]{50,255}"),
    _token("sendgrid_key", ("SG.",), r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"),
    _token("twilio_key", ("SK", "AC"), r"(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])"),
    _token("telegram_token", (":AA",), r"[0-9]{8,10}:AA[A-Za-z0-9_-]{32,34}(?![A-Za-z0-9_-])"),
    _token("api_token", ("gsk_", "r8_", "dop_v1_", "shpat_", "dapi", "AGE-SECRET-KEY-"),
           r"gsk_[A-Za-z0-9]{40,64}|r8_[A-Za-z0-9]{37,40}|dop_v1_[0-9a-f]{64}|shpat_[0-9a-f]{32}|dapi[0-9a-f]{32}|AGE-SECRET-KEY-1[0-9A-Z]{50,60}"),
    Rule("jwt", "<JWT>", ("eyJ",), re.compile(r"(?<![\w-])eyJ[\w-]{8,4096}+\.eyJ[\w-]{8,8192}+(?:\.[\w-]{0,2048}+)?"), varied),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------- URL credentials
# Words that manuals print where a secret belongs: they are documentation, not a leak.
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


def url_login(match: re.Match[str]) -> Span | None:
    token = match["token"]
    if token is not None:
        return match.span("token") if re.search("[0-9]", token) and entropy(token) >= 3.0 and not is_placeholder(token) else None
    return None if is_placeholder(match["password"]) else match.span("login")


URL_CREDENTIALS = Rule(
    "url_credentials",
    "<CREDENTIALS>",
    ("://",),
    re.compile(
        r"(?<=://)(?:(?P<login>[^\s/@:\"'<>`?#]{0,64}:(?P<password>[^\s/\"'<>`?#]{1,256}))|(?<=https://)(?P<token>[A-Za-z0-9_-]{20,256}))@(?=[\w\[.-])"
    ),
    url_login,
)

# ------------------------------------------------------------------------------------------------ secret assignments
NAMES = ("password", "passwd", "passphrase", "pwd", "secret", "api_key", "api-key", "apikey", "access_key", "access-key", "accesskey",
         "account_key", "accountkey", "private_key", "auth_key", "token", "credential")  # fmt: skip


def _any_case(word: str) -> str:
    """The word in upper or lower case: unlike re.IGNORECASE, this lets Python's search skip ahead to a possible first letter."""
    return "".join(f"[{c.upper()}{c}]" if c.isalpha() else "[_-]?" if c in "_-" else c for c in word)


ASSIGNED = re.compile(
    "(?P<name>"
    + "|".join(_any_case(name) for name in NAMES if "-" not in name)
    + r")(?P<rest>(?:s|[_-][A-Za-z0-9_-]{0,24})?+)(?:[\"']\]|\\?[\"'`]|\])?+[ \t]{0,4}+(?::=|=>|={1,3}|:)[ \t]{0,4}+"
    + r"(?:[brf]?\\?(?P<quote>[\"'`])(?P<quoted>[^\"'`\s\\]{6,256}+)|(?P<bare>[^\s\"'`,;<>(){}\[\]\\|]{6,256}+))(?P<after>.?)"
)
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")
WORDS = re.compile(r"[A-Za-z]+(?:[_\-. /:][A-Za-z]+)*[_-]?[0-9]{0,2}\Z")  # token-classification, my_key_2: words, no secret
PLACE = re.compile(r"(?i)(?:\.{0,2}/|~|[a-z]:\\|https?:|s3:|file:|\w+://|arn:).*|.*\.(?:pem|key|json|ya?ml|txt|py|crt|env|toml|cfg|ini)\Z")


def assigned_secret(match: re.Match[str]) -> Span | None:
    """The assigned value if it looks like a secret, and not like an example of a manual, a type, a call, a path or a variable."""
    group = "quoted" if match["quoted"] is not None else "bare"
    value = match[group].rstrip(".!?:&*") if group == "bare" else match[group]
    closed = match["after"] in (match["quote"], "\\") if group == "quoted" else match["after"] not in ("(", "[", "{")
    if not closed and not (group == "quoted" and len(value) >= 200):
        return None
    if len(value) < 6 or is_placeholder(value) or PLACE.match(value):
        return None
    start = match.start(group)
    return (start, start + len(value)) if _secret(match["name"] + match["rest"], value, group == "bare") else None


def _secret(name: str, value: str, bare: bool) -> bool:
    digit, symbol = re.search("[0-9]", value), re.search(r"[^\w.-]", value)
    if not (digit or symbol) or not re.search("[A-Za-z]", value):
        return False  # a plain word, or a number: `password=hunter`, `max_tokens: 4096`
    if re.search("pass|pwd", name, re.IGNORECASE):
        # In code a bare word is a variable; in an .env file (NAME=value) it is the password.
        return not (bare and IDENTIFIER.match(value) and not name.isupper()) and not (bare and not digit)
    if len(value) < 12 or not digit or WORDS.match(value) or (bare and symbol and not re.fullmatch(r"[\w+/=.~-]+", value)):
        return False
    return entropy(value) >= 3.0 and not (bare and IDENTIFIER.match(value) and len(value) < 20)


_CASES = tuple(
    c for stem in ("assw", "assp", "pwd", "ecret", "key", "Key", "oken", "redential") for c in dict.fromkeys((stem, stem.upper()))
)

ASSIGNMENTS = Rule("secret_assignment", "<SECRET>", _CASES, ASSIGNED, assigned_secret, ASSIGNMENT)
AWS_SECRET = Rule(
    "aws_secret",
    "<AWS_SECRET>",
    ("aws", "AWS", "ecretAccessKey"),
    re.compile(r"(?:[aA][wW][sS]|[sS]ecretAccessKey)[^\n=:]{0,40}?(?:=>?|:)\s{0,4}\\?[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
    random_looking,
)
BEARER = Rule(
    "bearer_token",
    "<BEARER_TOKEN>",
    ("earer ", "EARER ", "asic "),
    re.compile(r"(?:[bB]earer|BEARER|(?<=[:\"'] )[bB]asic|(?<=[:\"'])[bB]asic) {1,4}(?P<value>[A-Za-z0-9._~+/-]{16,4096}+={0,2})"),
    random_looking,
)

# Precise shapes first, so that a token in an assignment is counted as a token.
RULES = (PRIVATE_KEY, URL_CREDENTIALS, *TOKENS, AWS_SECRET, BEARER, ASSIGNMENTS)
