"""Numbers that identify a person or a car: social security, tax and identity numbers, passports, number plates. Off by default.

Numbers with a checksum or a shape of their own are found anywhere, others after their name.
"""

import re
from collections.abc import Callable

from mistral_lib.detection.payment_data import luhn
from mistral_lib.detection.rules import ALWAYS, LONG_WORD, SEVEN_DIGITS, Rule, Span, spellings

Check = Callable[[str], bool]


def _after(kind: str, needles: tuple[str, ...], labels: str, value: str, check: Check = lambda value: True) -> Rule:
    """A value after one of the labels, with `number`, `is`, a colon or a blank between them."""
    between = r"(?i:[ _-]?(?:numbers?|no|nr|nummer|num|n[°º]|id|#)?\.?)(?i: is| was| ist| lautet)?[\"']?[ \t]?[:：=#]?[ \t]{0,3}[\"']?"
    pattern = re.compile(rf"(?<![A-Za-z])(?i:{labels}){between}(?P<value>{value})(?![\w]|[.,-][0-9])")
    return Rule(kind, f"<{kind.upper()}>", needles, pattern, lambda match: match.span("value") if check(match["value"]) else None)


def _shape(kind: str, pattern: str, check: Check, needles: tuple[str, ...] = (), gate: str = SEVEN_DIGITS) -> Rule:
    def span(match: re.Match[str]) -> Span | None:
        return match.span() if check(match.group()) else None

    return Rule(kind, f"<{kind.upper()}>", needles, re.compile(pattern), span, gate)


def digits_of(value: str) -> list[int]:
    return [int(character) for character in value if character in "0123456789"]


def american(value: str) -> bool:
    """No area 000, 666 or 9xx, no group 00, no serial number 0000. Source: Social Security Administration."""
    digits = re.sub("[^0-9]", "", value)
    return len(digits) == 9 and digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def spanish(value: str) -> bool:
    """The letter of a DNI or NIE is its number modulo 23."""
    number = re.sub("[ .-]", "", value.upper())
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")) % 23] == number[-1]


def brazilian(value: str) -> bool:
    """The two check digits of a CPF."""
    digits = digits_of(value)
    return len(set(digits)) > 1 and all(
        sum(digit * weight for digit, weight in zip(digits, range(size + 1, 1, -1), strict=False)) * 10 % 11 % 10 == digits[size]
        for size in (9, 10)
    )


def chinese(value: str) -> bool:
    """Date of birth and check character of a resident identity number. Source: GB 11643."""
    remainder = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(value[:17])) % 11
    return "10X98765432"[remainder] == value[17].upper()


def french(value: str) -> bool:
    """The key of a social security number: 97 minus the number modulo 97."""
    compact = re.sub(r"\s", "", value)
    number = int(compact[:13].replace("2A", "19").replace("2B", "18"))
    return 97 - number % 97 == int(compact[13:15])


BRITISH = tuple(f"{digit}{blank}{letter}" for digit in range(10) for blank in ("", " ") for letter in "ABCD")  # how such a number ends
SOCIAL = "social_security_number"
SOCIAL_SECURITY = (
    _after(SOCIAL, ("SSN", "ssn", "ocial", "OCIAL", "ITIN", "TIN"), r"ssn|social security(?: (?:number|no))?|social-security(?:-number)?|itin|tin", "[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}"),
    _shape(SOCIAL, r"[0-9](?<![\w.,+/-].)[0-9]{2}-[0-9]{2}-[0-9]{4}(?![\w-]|[.,][0-9])", american),
    _shape(SOCIAL, r"[12](?<![\w.,+-].) ?[0-9]{2} ?(?:0[1-9]|1[0-2]|[2-9][0-9]) ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}(?![\w-])", french),
    _shape(SOCIAL, r"[A-CEGHJ-PR-TW-Z](?<![\w-].)[A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?![\w-])", lambda value: value[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ"), BRITISH, ALWAYS),
    _shape(SOCIAL, r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}(?!\w)", lambda value: True, ("756.",), ALWAYS),
    _after(SOCIAL, ("SIN", "ocial insurance", "ocial Insurance"), "sin|social insurance(?: number)?", "[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", lambda value: luhn(re.sub("[^0-9]", "", value))),
    _after(SOCIAL, ("ozialversicherung", "SVNR", "SV-N", "entenversicherung", "AHV", "NINO", "ational nsurance", "ational Insurance", "sécu", "écurité"),
           "sozialversicherungs(?:nummer)?|rentenversicherungs(?:nummer)?|svnr|sv-nummer|sv|ahv|nino|national insurance|(?:num[ée]ro de )?s[ée]curit[ée] sociale", "[0-9A-Z][0-9A-Z .]{6,20}[0-9A-Z]"),
)  # fmt: skip

NATIONAL = "national_id"
NATIONAL_IDS = (
    _after(NATIONAL, ("teuer", "TIN", "IdNr", "ax ", "TAX", "ax-", "VAT", "USt", "TFN", "EIN"), r"steuer(?:-?id(?:entifikationsnummer)?|nummer|-?nr)|steuerliche id\w*|idnr|tax(?:payer)?(?: id(?:entification)?)?|tfn|ein|vat|ust-?id\w*",
           r"(?:[A-Z]{2})?[0-9](?:[ ./-]?[0-9]){7,12}"),
    _after(NATIONAL, spellings("aadhaar", "aadhar", "uidai"), "aadhaar|aadhar|uidai", "[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}"),
    _after(NATIONAL, ("PAN", "Pan "), "pan(?: card)?", "[A-Z]{5}[0-9]{4}[A-Z]"),
    _shape(NATIONAL, r"[0-9XYZ](?<![\w.,+-].)[0-9]{7}[- ]?[A-HJ-NP-TV-Z](?![\w-])", spanish),
    _after(NATIONAL, ("DNI", "NIF", "NIE", "dni"), "dni|nif|nie", r"[0-9XYZ][0-9.]{6,10}[- ]?[A-Za-z]?"),
    _shape(NATIONAL, r"[A-Z](?<![\w-].)[A-Z]{5}[0-9]{2}[ABCDEHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?![\w-])", lambda value: True, gate=LONG_WORD),  # Italy
    _shape(NATIONAL, r"[0-9](?<![\w.,+-].)[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}-[0-9]{2}(?![\w-])", brazilian),
    _shape(NATIONAL, r"[1-8](?<![\w.,+-].)[0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx](?![\w-])", chinese),
    _shape(NATIONAL, r"[0-9](?<![\w.,+-].)[0-9](?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])-[1-4][0-9]{6}(?![\w-])", lambda value: True),  # Korea
    _shape(NATIONAL, r"[A-Z](?<![\w-].)[A-Z]{3}[0-9]{6}[HM][A-Z]{5}[A-Z0-9][0-9](?![\w-])", lambda value: True, gate=LONG_WORD),  # Mexico
    _shape(NATIONAL, r"[STFGM](?<![\w-].)[0-9]{7}[A-Z](?![\w-])", lambda value: True),  # Singapore
    _shape(NATIONAL, r"[0-3](?<![\w.,+-].)[0-9]{5}[-+A][0-9]{3}[0-9A-FHJ-NPR-Y](?![\w-])", lambda value: True),  # Finland
    _after(NATIONAL, ("ersonal", "dentity", "dentit", "ational", "ersonnummer", "PESEL", "BSN", "CPR", "CPF", "CNP", "RUT", "CUIL", "NHS", "NRIC", "usweis", "身份证", "mediCare", "edicare", "ID "),
           r"(?:national |personal )?(?:identity|identification)(?: card)?|national id|personal id|personnummer|pesel|bsn|cpr|cpf|cnp|rut|cuil|nhs|nric|(?:personal)?ausweis(?:nummer)?|身份证(?:号码?)?|medicare|id card",
           r"(?=[A-Z0-9 .-]{0,12}[0-9]{3})[A-Z0-9](?:[ .-]?[A-Z0-9]){6,17}"),
    _after(NATIONAL, ("riv", "ührerschein", "permis"), r"driv(?:er|ing)(?:'?s)?[ -]licen[cs]e|führerschein(?:nummer)?|permis de conduire", r"(?=[A-Z0-9 -]{0,12}[0-9]{3})[A-Z0-9](?:[ -]?[A-Z0-9]){5,19}"),
)  # fmt: skip

PASSPORT = "passport_number"
PASSPORTS = (
    _after(PASSPORT, ("assport", "ASSPORT", "eisepass", "asseport", "asaporte", "assaporto", "aspoort", "护照", "パスポート"), "passport|reisepass(?:nummer)?|passeport|pasaporte|passaporto|paspoort(?:nummer)?|护照(?:号码?)?|パスポート(?:番号)?",
           r"(?=(?:[A-Z]{0,6}[0-9]){4})[A-Z0-9]{6,10}"),
    # Machine readable lines. Source: ICAO Doc 9303
    Rule(PASSPORT, "<PASSPORT_NUMBER>", ("<<",), re.compile(r"(?<![A-Z0-9<])(?=[A-Z0-9<]{0,40}<<)(?:[PIACV][A-Z<][A-Z<]{3}[A-Z0-9<]{20,45}|[A-Z0-9<]{9}[0-9][A-Z<]{3}[0-9]{6}[0-9<][MFX<][0-9]{6}[0-9<][A-Z0-9<]{7,16}|[A-Z]{2,24}<<[A-Z<]{8,40})(?![A-Z0-9<])")),
    Rule(PASSPORT, "<PASSPORT_NUMBER>", ("<<",), re.compile(r"(?<![A-Z0-9<])[A-Z0-9<]{9}[0-9][A-Z<]{3}[0-9]{7}[MFX<][0-9]{7}[A-Z0-9<]{7,16}(?![A-Z0-9<])")),
)  # fmt: skip


def vehicle(value: str) -> bool:
    """The check digit of a vehicle identification number, at place 9. Source: 49 CFR 565.15."""
    values = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", [*range(1, 9), *range(1, 6), 7, 9, *range(2, 10)], strict=True))
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    total = sum(weight * (int(c) if c.isdigit() else values[c]) for weight, c in zip(weights, value, strict=True))
    return "0123456789X"[total % 11] == value[8] and not value.isdigit() and not value.isalpha()


CAR = ("car ", "Car ", "ehicle", "plate", "Plate", "PLATE", "ennzeichen", "egistration", "mmatricul", "atrícula", "targa", "Targa", "uto ", "van ", "truck", "drive", "drove", "parked", "agen ", "kenteken", "nummerplaat", "车牌")  # fmt: skip
VEHICLES = (
    _after("license_plate", CAR, r"(?:licen[cs]e |number |registration )?plate|kennzeichen|(?:vehicle |car )?registration|immatriculation|matr[ií]cula|targa|kenteken|车牌号?|car|van|truck|vehicle|auto|wagen|drives?(?: an?)?|drove(?: an?)?|parked(?: an?)?",
           r"[A-ZÄÖÜ]{1,3}[- ][A-ZÄÖÜ]{1,2}[ -]?[0-9]{1,4}[EH]?|[A-Z]{2}[0-9]{2} ?[A-Z]{3}|[A-Z]{2}[- ]?[0-9]{3}[- ]?[A-Z]{2}|[0-9]{4} ?[BCDFGHJ-NPR-TV-Z]{3}|[0-9][A-Z]{3}[0-9]{3}|[A-Z]{3}[- ]?[0-9]{3,4}|[A-Z]{2}[- ]?[0-9]{2}[- ]?[A-Z]{1,2}[- ]?[0-9]{4}|[A-Z]-?[0-9]{3}-?[A-Z]{2}|[0-9]{1,2}-[A-Z]{2,3}-[0-9]{1,2}|[\u4e00-\u9fff][A-Z]·?[A-Z0-9]{5,6}"),
    _after("vehicle_number", ("VIN", "Vin", "vin", "FIN", "ahrgestell", "hassis"), "vin|fin|fahrgestell(?:nummer)?|chassis|vehicle identification", r"(?=[A-Z0-9]{0,16}[0-9])[A-HJ-NPR-Z0-9]{17}"),
    _shape("vehicle_number", r"[A-HJ-NPR-Z1-9](?<![\w-].)[A-HJ-NPR-Z0-9]{16}(?![\w-])", vehicle, gate=LONG_WORD),
)  # fmt: skip

KINDS = {
    SOCIAL: SOCIAL_SECURITY,
    NATIONAL: NATIONAL_IDS,
    PASSPORT: PASSPORTS,
    "license_plate": VEHICLES[:1],
    "vehicle_number": VEHICLES[1:],
}
