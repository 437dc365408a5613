"""IBAN, card and account numbers. Checksums, lengths and prefixes exclude numbers that only look like one."""

import re

from mistral_lib.detection.rules import SEVEN_DIGITS, Rule, Span

# Length of an IBAN by country. Source: SWIFT IBAN registry.
IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN", 21: "CH HR LI LV", 22: "BG BH DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def iban(match: re.Match[str]) -> Span | None:
    """The IBAN at the start of the match if it has its country's length and a valid checksum (ISO 13616, modulo 97)."""
    start = match.start() - 2  # of the country, before the digits by which it is found
    found = match.string[start : match.end()]
    text = found.upper()
    length = IBAN_LENGTHS.get(text[:2], 0)
    places = [place for place, character in enumerate(text) if character.isalnum()]
    if not 0 < length <= len(places) or not (found.isupper() or re.search("[0-9]{8}", text)):
        return None
    end = places[length - 1] + 1
    compact = "".join(text[place] for place in places[:length])
    if text[end : end + 1].isalnum():  # longer than an IBAN of its country: another kind of code
        return None
    value = int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4]))
    return (start, start + end) if value % 97 == 1 else None


def luhn(digits: str) -> bool:
    """The checksum of card numbers. Source: ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


# By issuer: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro, Mir, RuPay and others
CARD_PREFIXES = re.compile(
    "4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}|3[47][0-9]{13}"
    "|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12}|3(?:0[0-59]|[689][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}|62[0-9]{14,17}"
    "|(?:5018|5020|5038|5893|6304|67[0-9]{2}|56[0-9]{2}|58[0-9]{2})[0-9]{8,15}|220[0-4][0-9]{12}|(?:60|81|82|508)[0-9]{13,14}|9792[0-9]{12}"
)
ORDERS = re.compile(
    r"(?i)(?:#|\b(?:order|invoice|tracking|shipment|ticket|serial|article|part|isbn|ean|gtin|imei|transaction|case|item)(?: (?:no|nr|number|id))?\.?[:# ]{1,3})\Z"
)


def card(match: re.Match[str]) -> Span | None:
    digits = re.sub("[^0-9]", "", match.group())
    known = CARD_PREFIXES.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1
    return match.span() if known and not ORDERS.search(match.string, max(0, match.start() - 24), match.start()) else None


GAP = "[ \xa0‑–-]"
IBAN = Rule(
    "iban",
    "<IBAN>",
    (),
    re.compile(rf"[0-9](?<=[A-Z]{{2}}.|[a-z]{{2}}.)(?<![\w-]...)[0-9](?:{GAP}?[A-Z0-9]|{GAP}?[a-z0-9]){{11,30}}(?![a-z])"),
    iban,
    SEVEN_DIGITS,
)
# In one piece, but not as the argument of a call (`default_rng(348...)` is a seed); or in groups of four, short numbers in 4-6-5 or
# 4-6-4. A row of numbers in a table is none of these.
CARD = Rule(
    "card_number",
    "<CARD_NUMBER>",
    (),
    re.compile(
        r"[0-9](?<![\w.,+-].)(?<![0-9] .)(?:(?<!\w\(.)[0-9]{11,18}|[0-9]{3}(?P<four>[ .\xa0‑–-])[0-9]{4}(?P=four)[0-9]{4}(?P=four)[0-9]{1,4}(?:(?P=four)[0-9]{1,3})?"
        r"|[0-9]{3}(?P<six>[ \xa0‑–-])[0-9]{6}(?P=six)[0-9]{4,5})(?![\w-]|[.,][0-9]| [0-9])"
    ),
    card,
    SEVEN_DIGITS,
)


def _account(needles: tuple[str, ...], labels: str, value: str) -> Rule:
    pattern = re.compile(
        rf"(?<![A-Za-z])(?i:{labels})(?i:[ _-]?(?:numbers?|no|nr|nummer|code))?(?i: is| was)?\.?[\"']?[ :=#]{{1,3}}[\"']?(?P<value>{value})(?![\w-]|[.,][0-9])"
    )
    return Rule(
        "bank_account", "<BANK_ACCOUNT>", needles, pattern, lambda match: match.span("value") if _not_counted_up(match["value"]) else None
    )


def _not_counted_up(value: str) -> bool:
    """12345678 in a manual is no account, and neither is a row of years."""
    if re.fullmatch("(?:19|20)[0-9]{2}(?:[- ](?:19|20)[0-9]{2})+", value):
        return False
    digits = re.sub("[^0-9]", "", value)
    return not digits or (digits not in "1234567890123456" and len(set(digits)) > 2)


ACCOUNTS = (
    _account(("ort code", "ort Code", "ORT CODE", "ort-code", "ortcode", "ortCode", "ort_code"), "sort[ _-]?code", "[0-9]{2}[- ]?[0-9]{2}[- ]?[0-9]{2}"),
    _account(("ccount", "CCOUNT", "cct", "a/c", "A/c", "A/C", "onto", "Kto"), "(?:bank )?(?:account|acct|a/c|konto|kto)", "[0-9]{2,4}(?:[- ]?[0-9]{2,4}){1,5}"),
    _account(("outing", "ABA", "BLZ", "ankleitzahl", "BSB", "transit"), "routing|aba|blz|bankleitzahl|bsb|transit", "[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{2,3}|[0-9]{3}-[0-9]{3}|[0-9]{8,9}"),
    _account(("IFSC", "ifsc"), "ifsc", "[A-Z]{4}0[A-Z0-9]{6}"),
    _account(("CLABE", "clabe"), "clabe", "[0-9]{18}"),
    _account(("BIC", "SWIFT", "wift", "bic"), "bic(?:/swift)?|swift(?:[-/]bic)?", "[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?"),
)  # fmt: skip

RULES = (IBAN, CARD, *ACCOUNTS)
