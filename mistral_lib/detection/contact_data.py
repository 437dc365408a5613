"""E-mail addresses, also as people write them for humans only, and user names in home paths and in commands such as ssh.

What a standard reserves for examples (example.com) belongs to nobody and is kept: a model of documentation should learn documentation.
"""

import re

from mistral_lib.detection.rules import Rule, Span, words

# ------------------------------------------------------------------------------------------------------------ e-mail
# Without a list of domains, `x@w.mean` and `A@coef.T` in manuals would be addresses. Any two letters count as a country.
DOMAIN_ENDINGS = words(
    """com org net edu gov mil int info biz name pro mobi app dev tech cloud online site xyz email tools team work company software
    group agency science digital studio blog shop store live world life network systems solutions services school academy
    london berlin paris nyc museum jobs coop aero asia cat tel travel health law bank inc llc ltd gmbh
    hamburg koeln cologne bayern wien swiss tirol saarland ruhr brussels amsterdam madrid barcelona gal eus quebec tokyo moscow
    global energy legal consulting media news press design photos photography immo house estate immobilien versicherung haus reise
    support center expert institute international foundation community church university college training education care clinic
    dental hospital doctor fitness games wiki page link click art music film events restaurant pizza cafe bar club social chat
    finance financial fund capital money tax insure engineer engineering industries construction marketing social zone space ai"""
)
RESERVED_DOMAINS = re.compile(r"(?i)(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)\Z")  # RFC 2606, RFC 6762
NO_PERSON = frozenset({"git", "noreply", "no-reply", "donotreply", "hg"})  # git@github.com is the address of a program
LETTERS = "A-Za-z0-9À-ɏͰ-ϿЀ-ӿ"


def address(match: re.Match[str]) -> Span | None:
    local, domain = (
        match["local"],
        re.sub(r"\s|[()\[\]{}<>]|(?i:dot|punkt)(?=[\s)\]}>])", "", match["domain"]) if " " in match["domain"] else match["domain"],
    )
    domain = domain.rstrip(".-")
    ending = domain.rpartition(".")[2].lower()
    country = (len(ending) == 2 and ending.isalpha() and len(local) >= 2 and len(domain) >= 5) or ending.startswith("xn--")
    if not (country or ending in DOMAIN_ENDINGS) or RESERVED_DOMAINS.search(domain) or local.lower() in NO_PERSON:
        return None
    return match.start("local"), match.end("domain") - (len(match["domain"]) - len(match["domain"].rstrip(".-")))


PLAIN = Rule(
    "email",
    "<EMAIL>",
    ("@", "＠"),
    re.compile(
        rf"(?<![{LETTERS}_%+.-])(?<!//)(?P<local>[{LETTERS}_%+][{LETTERS}._%+'-]{{0,63}}+)[@＠](?P<domain>[{LETTERS}][{LETTERS}-]{{0,62}}+(?:\.[{LETTERS}-]{{1,63}}+){{1,5}})"
    ),
    address,
)
ENCODED = Rule(  # anna%40firma.de, anna&#64;firma.de
    "email",
    "<EMAIL>",
    ("%40", "&#64;", "&#x40;", "&commat;", "\\u0040"),
    re.compile(
        rf"(?<![{LETTERS}_+.-])(?P<local>[{LETTERS}_+][{LETTERS}._+-]{{0,63}})(?:%40|&#64;|&#x40;|&commat;|\\u0040)(?P<domain>[{LETTERS}][{LETTERS}-]{{0,62}}+(?:\.[{LETTERS}-]{{1,63}}+){{1,5}})"
    ),
    address,
)


LOCAL = re.compile(rf"(?<![{LETTERS}_%+.-])[A-Za-z0-9_+][A-Za-z0-9._+-]{{1,63}}[ \t]?\Z")


def written_out(match: re.Match[str]) -> Span | None:
    """anna (at) firma (dot) com. With bare words, as in `anna at firma dot com`, both must be words. The match begins after the name."""
    local = LOCAL.search(match.string, max(0, match.start() - 66), match.start())
    if local is None or (not match["bracket"] and not match["dotted"]):
        return None
    ending = re.split(r"[^A-Za-z]+", match["domain"])[-1].lower()
    return (local.start(), match.end()) if ending in DOMAIN_ENDINGS or len(ending) == 2 else None


WRITTEN_OUT = Rule(
    "email",
    "<EMAIL>",
    ("at)", "at]", "at}", "at>", "AT)", "AT]", "At)", "At]", "ät)", "ä]", "@)", "@]", " dot ", " DOT ", " punkt ", " @ "),
    re.compile(
        r"[ \t(\[{<](?:(?P<bracket>(?<=[(\[{<])[ \t]?(?:at|AT|At|ät|ä|@)[ \t]?[)\]}>][ \t]?)|(?<=[ \t])(?:at|AT|@)[ \t])"
        r"(?P<domain>[A-Za-z0-9][A-Za-z0-9-]{0,62}+(?:(?:\.|(?P<dotted>[ \t]?[(\[{<][ \t]?(?:dot|DOT|Dot|punkt|Punkt|\.)[ \t]?[)\]}>][ \t]?|[ \t](?:dot|DOT|punkt|\.)[ \t]))[A-Za-z0-9-]{2,63}+){1,4})(?![A-Za-z0-9])"
    ),
    written_out,
)

UNDERSCORED = Rule(  # joe.blow_at_web.de; only endings that no program's file has
    "email",
    "<EMAIL>",
    ("_at_", "_AT_"),
    re.compile(
        r"(?<![\w%+.-])(?P<local>[A-Za-z0-9]{1,32}(?:[.-][A-Za-z0-9]{1,32}){0,3})_(?:at|AT)_(?P<domain>[A-Za-z0-9][A-Za-z0-9-]{0,62}(?:\.[A-Za-z0-9-]{1,63}){0,2}\.(?:com|net|org|de|at|ch|fr|nl|it|es|eu|pl|uk|se|dk))(?![\w(.\[-]\w|[\w(\[])"
    ),
    address,
)

# -------------------------------------------------------------------------------------------------------- user names
NO_NAMES = words(
    """user users username user_name user-name you me your_name yourname your-name name ubuntu ec2-user sagemaker-user jovyan runner vscode
    root admin shared public default home myuser my_user my-user someone app circleci vagrant pi git hg azureuser centos debian deploy
    postgres www-data nobody guest administrator opc core hadoop"""
)  # accounts of machines, and the words of manuals


def user_name(match: re.Match[str]) -> Span | None:
    group = next(name for name, value in match.groupdict().items() if value is not None)
    return None if match[group].lower() in NO_NAMES else match.span(group)


HOME_PATH = Rule(
    "home_path",
    "<USER>",
    ("/home/", "/Users/", "\\Users\\", ":/Users", "\\Documents and Settings\\"),
    re.compile(
        r"(?:(?<![\w>])|(?<=[A-Za-z]:)|(?<=/(?:mnt)/[a-z])|(?<=/export)|(?<=/var)|(?<=/usr)|(?<=/data)|(?<=/private))/(?:home|Users)/(?P<unix>[A-Za-z0-9À-ɏ_][A-Za-z0-9À-ɏ._-]{0,63}+)(?=[/\s\"'`)\]:,;>\\]|\Z)"
        r"|\\{1,2}(?:Users|Documents and Settings)\\{1,2}(?P<windows>[^\s\\/:*?\"'<>|]{1,32}(?: [^\s\\/:*?\"'<>|]{1,32}){0,2}(?=\\)|[^\s\\/:*?\"'<>|,;)]{1,64})"
    ),
    user_name,
)
LOGIN = Rule(
    "home_path",
    "<USER>",
    ("ssh", "scp ", "sftp ", "rsync ", "mosh "),
    re.compile(r"\b(?:ssh|scp|sftp|rsync|mosh)\b[^\n@|;&]{0,80}?[ /](?P<login>[a-z_][a-z0-9_.-]{1,31})@(?=[A-Za-z0-9])"),
    user_name,
)

EMAIL = (PLAIN, ENCODED, WRITTEN_OUT, UNDERSCORED)
RULES = (*EMAIL, HOME_PATH, LOGIN)
