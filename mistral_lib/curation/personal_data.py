"""E-mail addresses, telephone, account and card numbers, and the user names in home paths.

Checksums, lengths and prefixes exclude numbers that only look like one. What a standard reserves for examples (example.com, 555-0100)
belongs to nobody and is kept: a model of documentation should learn documentation.
"""

import re

from mistral_lib.curation.redaction_rules import DIGITS, Rule, Span, words

# ------------------------------------------------------------------------------------------------------------ e-mail
# Without a list of domains, `x@w.mean` and `A@coef.T` in manuals would be addresses. Any two letters count as a country.
DOMAIN_ENDINGS = words(
    """com org net edu gov mil int info biz name pro mobi app dev tech cloud online site xyz email tools team work company software
    group agency science digital studio blog shop store live world life network systems solutions services school academy
    london berlin paris nyc museum jobs coop aero asia cat tel travel health law bank inc llc ltd gmbh"""
)
RESERVED_DOMAINS = re.compile(r"(?i)(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)\Z")  # RFC 2606, RFC 6762
NO_PERSON = frozenset({"git", "noreply", "no-reply", "donotreply", "hg"})  # git@github.com is the address of a program


def address(match: re.Match[str]) -> Span | None:
    local, domain = match["local"], match["domain"].rstrip(".-")
    ending = domain.rpartition(".")[2].lower()
    country = len(ending) == 2 and ending.isalpha() and len(local) >= 2 and len(domain) >= 5
    recognized = country or ending in DOMAIN_ENDINGS
    if not recognized or RESERVED_DOMAINS.search(domain) or local.lower() in NO_PERSON:
        return None
    return match.start("local"), match.start("domain") + len(domain)


EMAIL = Rule(
    "email",
    "<EMAIL>",
    ("@",),
    re.compile(
        r"(?<![A-Za-z0-9À-ɏ_%+.-])(?<!//)(?P<local>[A-Za-z0-9À-ɏ_%+][A-Za-z0-9À-ɏ._%+'-]{0,63}+)@(?P<domain>[A-Za-z0-9À-ɏ][A-Za-z0-9À-ɏ-]{0,62}+(?:\.[A-Za-z0-9À-ɏ-]{1,63}+){1,5})"
    ),
    address,
)

# --------------------------------------------------------------------------------------------------------- telephone
# Country calling codes (ITU-T E.164): one, two or three digits.
COUNTRY_CODE = re.compile(
    "1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|21[12368]|22[0-9]|23[0-9]|24[0-9]|25[0-8]|26[0-9]|29[01789]|35[0-9]|37[0-9]|38[0-9]"
    "|42[013]|50[0-9]|59[0-9]|67[0-9]|68[0-9]|69[0-2]|85[02356]|88[06]|96[0-8]|97[0-9]|99[2-68]"
)
FICTION = re.compile("1?[2-9]?[0-9]{0,2}55501[0-9]{2}")  # reserved for examples: North American numbers 555-0100 to 555-0199


def international(match: re.Match[str]) -> Span | None:
    """A plausible E.164 number: a country code, 8 to 15 digits, and separators, if any, that group it as people do."""
    digits = re.sub("[^0-9]", "", match["value"])
    groups = re.findall("[0-9]+", match["value"])
    # `+1.23456789` is a decimal number with a sign; a telephone number has few groups.
    decimal = match["value"].count(".") == 1 and len(groups) == 2
    if not 8 <= len(digits) <= 15 or not COUNTRY_CODE.match(digits) or len(groups) > 7 or decimal or len(set(digits)) < 3:
        return None
    if digits[0] == "1" and (len(digits) != 11 or digits[1] in "01" or digits[4] in "01"):
        return None
    return None if FICTION.fullmatch(digits) else match.span("value")


def national(match: re.Match[str]) -> Span | None:
    digits = re.sub("[^0-9]", "", match["value"])
    return match.span("value") if 7 <= len(digits) <= 15 and len(set(digits)) >= 3 and not FICTION.fullmatch(digits) else None


PHONES = (
    Rule(
        "phone",
        "<PHONE>",
        ("+",),
        re.compile(r"(?<![\w+*/^=.,)\]-])(?P<value>\+[1-9](?:(?:[ .-]|[ .-]?\(|\)[ .-]?)?[0-9]){7,14})(?![\w+*/^]|[.,][0-9])"),
        international,
    ),
    Rule(  # (415) 555-2671 and 415-555-2671: North American numbers as they are printed
        "phone",
        "<PHONE>",
        (),
        re.compile(r"(?<![\w+.,/(-])(?P<value>(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}-)[2-9][0-9]{2}-[0-9]{4})(?![\w-]|[.,][0-9])"),
        national,
        gate=DIGITS,
    ),
    Rule(  # a national number after a word such as "phone"
        "phone",
        "<PHONE>",
        ("hone", "HONE", "el:", "el.", "TEL", "obile", "ax:", "hatsApp"),
        re.compile(r"\b(?:[tT]ele)?(?:[pP]hone|PHONE|[tT]el|TEL|[mM]obile|[fF]ax|[wW]hatsApp)(?: (?:no|number|nr))?[.:]{1,2} {0,3}(?P<value>\(?(?:\+|00?)[1-9](?:[ ./()-]{0,2}[0-9]){6,13})(?![\w-])"),
        national,
        gate=DIGITS,
    ),
)  # fmt: skip

# --------------------------------------------------------------------------------------------------- accounts, cards
# Length of an IBAN by country. Source: SWIFT IBAN registry.
IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN", 21: "CH HR LI LV", 22: "BG BH DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def account(match: re.Match[str]) -> Span | None:
    """The IBAN at the start of the match if it has its country's length and a valid checksum (ISO 13616, modulo 97)."""
    length = IBAN_LENGTHS.get(match.group()[:2], 0)
    places = [place for place, character in enumerate(match.group()) if character not in " -"]
    if not 0 < length <= len(places):
        return None
    end = places[length - 1] + 1
    compact = re.sub("[ -]", "", match.group()[:end])
    if match.group()[end : end + 1].isalnum():  # longer than an IBAN of its country: another kind of code
        return None
    value = int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4]))
    return (match.start(), match.start() + end) if value % 97 == 1 else None


def luhn(digits: str) -> bool:
    """The checksum of card numbers. Source: ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


CARD_PREFIXES = re.compile(
    "4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}|3[47][0-9]{13}"
    "|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}|62[0-9]{14,17}"
)


def card(match: re.Match[str]) -> Span | None:
    digits = re.sub("[^0-9]", "", match.group())
    return match.span() if CARD_PREFIXES.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1 else None


IBAN = Rule("iban", "<IBAN>", (), re.compile(r"(?<![\w-])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}(?![a-z])"), account, DIGITS)
# In one piece, but not as the argument of a call (`default_rng(348...)` is a seed); or in groups of four, short numbers in 4-6-5 or
# 4-6-4. A row of numbers in a table is none of these.
CARD = Rule(
    "card_number",
    "<CARD_NUMBER>",
    (),
    re.compile(r"(?<![\w.,+-])(?<![0-9] )(?:(?<!\w\()[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})(?![\w-]|[.,][0-9]| [0-9])"),
    card,
    DIGITS,
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------- home paths
NO_NAMES = words(
    """user users username user_name user-name you me your_name yourname your-name name ubuntu ec2-user sagemaker-user jovyan runner vscode
    root admin shared public default home myuser my_user my-user someone app circleci vagrant pi"""
)  # accounts of machines, and the words of manuals


def user_name(match: re.Match[str]) -> Span | None:
    group = "unix" if match["unix"] is not None else "windows"
    return None if match[group].lower() in NO_NAMES else match.span(group)


HOME_PATH = Rule(
    "home_path",
    "<USER>",
    ("/home/", "/Users/", "\\Users\\", ":/Users"),
    re.compile(
        r"(?:(?<![\w>])|(?<=[A-Za-z]:))/(?:home|Users)/(?P<unix>[A-Za-z0-9À-ɏ_][A-Za-z0-9À-ɏ._-]{0,63}+)(?=[/\s\"'`)\]:,;>\\]|\Z)"
        r"|\\{1,2}Users\\{1,2}(?P<windows>[^\s\\/:*?\"'<>|]{1,32}(?: [^\s\\/:*?\"'<>|]{1,32}){0,2}(?=\\)|[^\s\\/:*?\"'<>|,;)]{1,64})"
    ),
    user_name,
)

RULES = (EMAIL, *PHONES, IBAN, CARD, HOME_PATH)
