"""Telephone numbers: international ones, national ones as they are printed, and numbers after a word such as "phone".

Lengths, prefixes and separators exclude numbers that only look like one. What is reserved for fiction (555-0100) is kept.
"""

import itertools
import re

from mistral_lib.detection.rules import SEVEN_DIGITS, Rule, Span

# Country calling codes (ITU-T E.164): one, two or three digits.
COUNTRY_CODE = re.compile(
    "1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|21[12368]|22[0-9]|23[0-9]|24[0-9]|25[0-8]|26[0-9]|29[01789]|35[0-9]|37[0-9]|38[0-9]"
    "|42[013]|50[0-9]|59[0-9]|67[0-9]|68[0-9]|69[0-2]|85[02356]|88[06]|96[0-8]|97[0-9]|99[2-68]"
)
FICTION = re.compile("1?[2-9]?[0-9]{0,2}55501[0-9]{2}")  # reserved for examples: North American numbers 555-0100 to 555-0199
HYPHEN = r"‐‑–\-"  # inside a character class
GAP = rf"[ \xa0.{HYPHEN}]"
CALCULATION = r"(?! {0,3}[=*/^%<>]| {1,3}[+-] {0,3}[0-9])"  # 415-555-2671 = -2811


def digits_of(text: str) -> str:
    return re.sub("[^0-9]", "", text)


def international(match: re.Match[str]) -> Span | None:
    """A plausible E.164 number: a country code, 8 to 15 digits, and separators, if any, that group it as people do."""
    digits = digits_of(match["value"]).removeprefix("00")
    groups = re.findall("[0-9]+", match["value"])
    # `+1.23456789` is a decimal number with a sign; a telephone number has few groups.
    decimal = match["value"].count(".") == 1 and len(groups) == 2
    if not 8 <= len(digits) <= 15 or not COUNTRY_CODE.match(digits) or len(groups) > 8 or decimal or len(set(digits)) < 3:
        return None
    if digits[0] == "1" and (len(digits) != 11 or digits[1] in "01" or digits[4] in "01"):
        return None
    return None if FICTION.fullmatch(digits) else match.span("value")


def national(match: re.Match[str]) -> Span | None:
    digits = digits_of(match["value"])
    return match.span("value") if 7 <= len(digits) <= 15 and len(set(digits)) >= 3 and not FICTION.fullmatch(digits) else None


def printed(match: re.Match[str]) -> Span | None:
    """A national number without a word before it. Pairs of digits in equal steps (05 10 15 20 25) are a list."""
    pairs = re.findall(r"(?<![0-9])[0-9]{2}(?![0-9])", match.group())
    steps = {int(b) - int(a) for a, b in itertools.pairwise(pairs)}
    return None if len(pairs) >= 3 and len(steps) == 1 else national(match)


LABELS = (
    "telephone", "phone", "tel", "telefon", "téléphone", "tél", "teléfono", "telefono", "telefone", "mobile", "mobil", "móvil", "movil", "cell", "cellphone",
    "cellulare", "celular", "handy", "fax", "whatsapp", "sms", "hotline", "landline", "call", "dial", "text", "reach", "ring", "contact", "portable", "gsm",
    "rufnummer", "telefonnummer", "handynummer", "telefoon", "puhelin", "tlf", "telefonszám", "тел", "телефон", "моб", "电话", "電話", "手机", "手機", "携帯", "携帯電話", "联系方式", "전화", "휴대폰", "연락처",
)  # fmt: skip
LABEL = re.compile(
    r"(?:(?<![A-Za-z])|(?<=[a-z_])(?=[PTM]))(?i:" + "|".join(sorted(LABELS, key=len, reverse=True)) + ")"
    r"(?i:[ _-]?(?:numbers?|no|nr|num|nummer|n°|番号|号码|me|us|him|her|them)\.?)?(?i: (?:on|at|is|was|now|under))?"
    r"(?:[\"']? ?(?P<colon>[:：.=]{1,2})[ \t\xa0]{0,3}[\"']?|[ \t\xa0]{0,2})\Z"
)
LABEL_LENGTH = 48  # characters before a number in which its label is looked for


def labelled(match: re.Match[str]) -> Span | None:
    """After a colon any number of the right length; after a blank only one that is written as telephone numbers are."""
    value = match.group()
    digits, label = digits_of(value), LABEL.search(match.string, max(0, match.start() - LABEL_LENGTH), match.start())
    if (
        label is None
        or not 7 <= len(digits) <= 15
        or len(set(digits)) < 3
        or FICTION.fullmatch(digits)
        or re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*|[0-9]{1,2}[./-][0-9]{1,2}[./-](?:19|20)[0-9]{2}", value)
    ):
        return None
    groups = len(re.findall("[0-9]+", value))
    if groups == len(digits):  # 1 2 3 4 5 6 7 8
        return None
    typical = (
        value[0] in "+(0"
        or (groups >= 3 and len(digits) >= 9)
        or re.fullmatch(r"1[3-9][0-9]{9}|[6-9][0-9]{9}|[2-9][0-9]{2}[2-9][0-9]{6}", digits)
    )
    return match.span() if typical or (label["colon"] and "." not in value) else None


def _rule(pattern: str, span=national, needles: tuple[str, ...] = (), gate: str = SEVEN_DIGITS) -> Rule:
    return Rule("phone", "<PHONE>", needles, re.compile(pattern), span, gate)


def _north_american(match: re.Match[str]) -> Span | None:
    digits = digits_of(match.group())
    return match.span() if len(digits) == 10 and digits[1:3] != "11" and len(set(digits)) >= 3 and not FICTION.fullmatch(digits) else None


BEFORE = r"(?<![A-Za-z0-9_.,+/(#=*-].)(?<![0-9] .)"  # for patterns that begin with one character of the number
AFTER = r"(?![\w-]|[.,:/][0-9]| [0-9])" + CALCULATION
RULES = (
    _rule(
        rf"[+＋](?<![A-Za-z0-9+*/^=.,)\]-].)(?P<value>(?<=.)[1-9](?:(?:[ \xa0./{HYPHEN}]|{GAP}?\(|\){GAP}?)?[0-9]){{7,14}})(?![\w+*/^]|[.,][0-9])",
        lambda match: (match.start(), match.end("value")) if international(match) else None,
    ),
    _rule(  # 0049 170 1234567
        rf"0(?<![A-Za-z0-9_.,+/(#=*-].)(?P<value>0[1-9](?:[0-9]{{0,2}}){GAP}\(?[0-9]{{1,5}}\)?(?:[ ./{HYPHEN}]?[0-9]){{5,10}})(?![\w-]|[.,][0-9])",
        lambda match: (match.start(), match.end("value")) if COUNTRY_CODE.match(match["value"][1:]) and national(match) else None,
    ),
    _rule(  # (415) 555-2671, 415-555-2671, 415.555.2671: North American numbers as they are printed
        rf"[(2-9](?<![A-Za-z0-9_.,+/(#=*-].)(?P<value>(?<=\()[2-9][0-9]{{2}}\) ?[2-9][0-9]{{2}}[{HYPHEN}. ][0-9]{{4}}|(?<![(])[0-9]{{2}}(?P<gap>[.{HYPHEN}])[2-9][0-9]{{2}}(?P=gap)[0-9]{{4}})(?![\w-]|[.,][0-9])" + CALCULATION,
        lambda match: (match.start(), match.end("value")) if _north_american(match) else None,
    ),
    _rule(  # 1-800-555-2671
        rf"1{BEFORE}(?P<value>[ {HYPHEN}.]\(?[2-9][0-9]{{2}}\)?[ {HYPHEN}.][2-9][0-9]{{2}}[{HYPHEN}.][0-9]{{4}}){AFTER}",
        lambda match: (match.start(), match.end("value")) if national(match) else None,
    ),
    _rule(  # 8 (495) 123-45-67
        rf"8{BEFORE}(?P<value>[ -]?\(?[3489][0-9]{{2,4}}\)?[ -]?[0-9]{{1,3}}[ -][0-9]{{2}}[ -][0-9]{{2}}){AFTER}",
        lambda match: (match.start(), match.end("value")) if len(digits_of(match["value"])) == 10 else None,
    ),
    _rule(r"wa\.me/(?P<value>[1-9][0-9]{7,14})(?![\w-])", national, ("wa.me/",)),
    # National numbers that begin with 0: 030/90182055, 03-3201-1234, 020 7946 1958, 07700 912345, 01 42 68 53 00, 0412 345 678
    _rule(
        rf"0{BEFORE}(?P<value>[1-9](?:(?P<pair>[ .{HYPHEN}])[0-9]{{2}}(?:(?P=pair)[0-9]{{2}}){{3}}|[0-9]{{1,4}}[{HYPHEN}/][0-9]{{6,8}}|[0-9]{{0,4}}[{HYPHEN}][0-9]{{2,4}}[{HYPHEN}][0-9]{{4}}"
        rf"|[0-9]{{1,3}} [0-9]{{3,4}} [0-9]{{3,4}}|[0-9]{{1,2}}[ /{HYPHEN}][0-9]{{2,3}} [0-9]{{2}} [0-9]{{2}}|7[0-9]{{3}} [0-9]{{6}}|[1567][0-9]{{1,2}} [0-9]{{7,8}})){AFTER}",
        lambda match: (match.start(), match.end("value")) if 8 <= len(digits_of(match["value"])) <= 10 and printed(match) else None,
    ),
    _rule(  # (030) 901820-55, (11) 91234-5678
        rf"\((?<![A-Za-z0-9_].)(?P<value>0[0-9]{{1,4}}\) ?[0-9](?:[ /{HYPHEN}]?[0-9]){{4,9}}|[1-9][0-9]\) ?9?[0-9]{{4}}[{HYPHEN}][0-9]{{4}}){AFTER}",
        lambda match: (match.start(), match.end("value")) if national(match) else None,
    ),
    _rule(
        rf"[+(0-9](?<![0-9A-Za-z_][+(0-9])(?:(?<=[+])\(?[0-9]|(?<=\()[+]?[0-9]|(?<=[0-9]))(?:[ ./()\xa0{HYPHEN}]{{0,2}}[0-9]){{6,14}}(?![\w]|[{HYPHEN}][0-9]|[.,][0-9])" + CALCULATION,
        labelled,
    ),
)  # fmt: skip
