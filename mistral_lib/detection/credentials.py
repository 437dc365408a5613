"""Secrets at a known place: in addresses, command lines, password files; password hashes and seed phrases of wallets."""

import re

from mistral_lib.detection.rules import Rule, Span, entropy, words
from mistral_lib.detection.secret_values import is_password, is_placeholder


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
        r"://(?:(?P<login>[^\s/@:\"'<>`?#]{0,64}:(?P<password>[^\s/\"'<>`?#]{1,256}))|(?<=https://)(?P<token>[A-Za-z0-9_-]{20,256}))@(?=[\w\[.-])"
    ),
    url_login,
)
SIGNED_URL = Rule(
    "url_signature",
    "<SIGNATURE>",
    ("sig=", "ignature=", "&code=", "?code="),
    re.compile(r"[?&;](?:sig|code|[A-Za-z-]{0,16}[sS]ignature)=(?P<value>[A-Za-z0-9%/+_=-]{32,1024})"),
    lambda match: match.span("value") if re.search("[0-9]", match["value"]) and entropy(match["value"]) >= 3.5 else None,
)


def password(match: re.Match[str]) -> Span | None:
    value = match["value"]
    return match.span("value") if is_password(value) and not re.match(r"[0-9]{2,5}:[0-9]{2,5}", value) else None


WORD = r"[\"']?(?P<value>[^\s\"']{6,256})"
COMMANDS = (
    (("mysql", "mariadb", "mycli"), rf"\b(?:mysql\w*|mariadb\w*|mycli)\b[^\n|;&]{{0,200}}? -p{WORD}"),
    (("sshpass",), rf"\bsshpass -p ?{WORD}"),
    (
        (" login", "mongo", "registry", "smbclient", "sqlcmd", "7z", "zip ", "htpasswd", "net use", "ldap"),
        rf"\b(?:(?:docker|podman|helm|az|oc|nerdctl|skopeo|buildah|cf|npm|doctl)\b[^\n|;&]{{0,80}}?\blogin|mongo\w*|sqlcmd|bcp|7za?|unzip|zip|ldap\w+)\b[^\n|;&]{{0,200}}? -[pPwW] ?{WORD}",
    ),
    (("curl ", "wget ", " -u ", "--user", "--auth", "--proxy-user"), r"\b(?:curl|wget|https?|xh)\b[^\n|;&]{0,300}? (?:-u|--user|-a|--auth|--proxy-user) ?[\"']?[\w.@+-]{1,64}:(?P<value>[^\s\"'@]{6,256})"),
    (("redis-cli", "valkey-cli"), rf"\b(?:redis|valkey)-cli\b[^\n|;&]{{0,120}}? -a {WORD}"),
    (("--pass", "--secret", "--token", "--api", "--access", "--client", "--auth", "--key"),
     rf"(?<!\S)--(?:\w+-){{0,2}}(?:password|passwd|pass|passphrase|secret(?:-key)?|token|api-?key)(?: {{1,3}}|=){WORD}"),
    (("requirepass ", "masterauth "), rf"\b(?:requirepass|masterauth) {WORD}"),
    (("psk=", "WPA"), rf"\b(?:psk|WPA[23]?(?:[ -](?:PSK|Personal))? ?(?:[kK]ey|[pP]assphrase|PSK)) ?[=:] ?{WORD}"),
    (("ConvertTo-SecureString",), rf"\bConvertTo-SecureString(?: -\w{{1,20}}){{0,3}} {WORD}"),
    (("htpasswd",), rf"\bhtpasswd(?: -\w{{1,8}}){{0,3}} -\w{{0,4}}b\w{{0,4}}(?: -\w{{1,8}}){{0,3}}(?: [^\s|;&-][^\s|;&]{{0,200}}){{1,2}} {WORD}"),
    (("DENTIFIED ", "dentified "), r"(?i:IDENTIFIED (?:WITH \w+ )?BY) [\"'](?P<value>[^\"'\s]{6,128})[\"']"),
    (("wandb login",), r"\bwandb login (?:--relogin )?(?P<value>[0-9a-f]{40})\b"),
    (("machine ",), rf"\blogin[ \t\n]{{1,8}}\S{{1,128}}[ \t\n]{{1,8}}password[ \t\n]{{1,8}}{WORD}"),  # .netrc
    # .pgpass: host:port:database:user:password
    ((":5432:", ":5433:", ":6432:", ":3306:", ":*:", "pgpass"), r"(?<!\S)[\w.*-]{1,253}:(?:[0-9]{2,5}|\*):[\w*.-]{1,63}:[\w*.-]{1,63}:(?P<value>[^\s:\"']{6,256})(?!\S)"),
)  # fmt: skip

HASHES = Rule(
    "password_hash",
    "<PASSWORD_HASH>",
    (
        "$1$",
        "$5$",
        "$6$",
        "$y$",
        "$7$",
        "$gy$",
        "$2a$",
        "$2b$",
        "$2y$",
        "$2x$",
        "$apr1$",
        "$argon2",
        "pbkdf2",
        "scrypt",
        "SHA}",
        "SHA512}",
        "SHA256}",
        ":::",
        "bcrypt_sha256$",
    ),
    re.compile(
        r"(?<![\w$])\$(?:1|apr1)\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{22}|(?<![\w$])\$[56]\$(?:rounds=[0-9]{1,9}\$)?[./A-Za-z0-9]{1,32}\$[./A-Za-z0-9]{40,90}|(?<![\w$])\$(?:g?y|7)\$[./A-Za-z0-9$]{30,140}"
        r"|\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{53}|\$argon2(?:id|i|d)\$(?:v=[0-9]{1,3}\$)?[a-z0-9=,]{5,40}\$[A-Za-z0-9+/]{8,100}\$[A-Za-z0-9+/]{20,200}"
        r"|pbkdf2[_:a-z0-9-]{0,20}[$:][0-9]{2,8}\$[A-Za-z0-9./+=]{1,60}\$[A-Za-z0-9./+=]{20,200}|scrypt[$:][0-9:$]{3,30}\$?[A-Za-z0-9./+=]{6,100}\$[A-Za-z0-9./+=]{20,200}"
        r"|\{(?:S?SHA|SSHA(?:256|512)|SHA(?:256|512)|CRYPT|PBKDF2[A-Z0-9-]{0,8})\}[A-Za-z0-9+/$.]{24,200}={0,2}|(?<=:)[0-9a-f]{32}:[0-9a-f]{32}(?=:::)"
    ),
)

# ------------------------------------------------------------------------------------------------------ seed phrases
NO_SEED_WORDS = words(
    "the and with for from are was were has have had not but his her its our their which should would could these those been"
)


def seed_phrase(match: re.Match[str]) -> Span | None:
    """Twelve to 24 words. Words that are in nearly every sentence are in no word list. Source: BIP 39."""
    listed = re.findall("[a-z]{3,8}", match["value"])
    return match.span("value") if 12 <= len(listed) <= 24 and not NO_SEED_WORDS.intersection(listed) else None


SEED_PHRASE = Rule(
    "seed_phrase",
    "<SEED_PHRASE>",
    (
        "seed",
        "Seed",
        "SEED",
        "nemonic",
        "NEMONIC",
        "ecovery ",
        "ackup phrase",
        "ackup words",
        "allet phrase",
        "allet words",
        "ecret phrase",
        "ecret recovery",
    ),
    re.compile(
        r"(?i:(?:seed|recovery|backup|wallet|secret)[ _-]?(?:recovery )?(?:phrase|words?|seed)|mnemonic(?:[ _-]?(?:phrase|words?|seed))?)(?: (?:is|are|was))?[\"']?\s{0,3}[:=]?\s{0,3}[\"'(\[]?"
        r"(?P<value>(?:[0-9]{1,2}[.)] ?)?[a-z]{3,8}(?:[\"']?,?[ \n]{1,2}[\"']?(?:[0-9]{1,2}[.)] ?)?[a-z]{3,8}\b){11,23})"
    ),
    seed_phrase,
)

RULES = (
    URL_CREDENTIALS, SIGNED_URL, HASHES, SEED_PHRASE,
    *(Rule("command_password", "<PASSWORD>", needles, re.compile(pattern), (lambda match: match.span("value")) if "wandb" in pattern else password)
      for needles, pattern in COMMANDS),
)  # fmt: skip
