"""Dates of birth, street addresses, and names after "my name is". Off by default."""

import re
from collections.abc import Callable, Iterable

from mistral_lib.detection.rules import Rule, Span, spellings, whole_value, words

MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|janv|févr|mars|avr|juin|juil|août|déc|ene|abr|ago|dic|gen|mag|giu|lug|set|ott)[a-zäéûç]{0,8}\.?"
DATE = rf"(?i:[0-9]{{4}}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,2}}|[0-9]{{1,2}}[-/.] ?[0-9]{{1,2}}[-/.] ?[0-9]{{2,4}}|[0-9]{{1,2}}(?:st|nd|rd|th|\.|er)? (?:of |de )?{MONTH},?(?: de)? [0-9]{{4}}|{MONTH} [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}}|[0-9]{{4}} ?年 ?[0-9]{{1,2}} ?月 ?[0-9]{{1,2}} ?日|[0-9]{{8}})"
BORN = r"born|date[ _-]of[ _-]birth|birth[ _-]?(?:date|day)|dob|d\.o\.b\.?|geboren|geb\.?|geburts(?:datum|tag)|née?|fecha de nacimiento|nacid[oa]|data di nascita|nat[oa]|data de nascimento|nascid[oa]|date de naissance|geboortedatum|出生(?:日期)?|生年月日|生日"
BIRTH = Rule(
    "date_of_birth",
    "<DATE_OF_BIRTH>",
    (*spellings("born", "birth", "dob", "geb", "d.o.b", "née", "né ", "nacimiento", "nacido", "nacida", "nascita", "nato", "nata", "nascimento", "naissance", "geboortedatum"), "irth", "Birth", "ebur", "出生", "生年月日", "生日"),
    re.compile(rf"(?<![A-Za-z])(?i:{BORN})(?i: (?:is|was|on|am|le|el|il|em|ist|the))?[\"']?[ \t]?[:：=]?[ \t]{{0,3}}[\"']?(?P<value>{DATE})(?![\w]|[.,-][0-9])"),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- addresses
NAME = r"[A-ZÀ-Ý0-9][\w'’.-]{0,30}"
STREETS = words(
    """Street St Avenue Ave Road Rd Boulevard Blvd Lane Ln Drive Dr Court Ct Way Place Pl Square Sq Terrace Close Crescent Parkway Pkwy
    Highway Hwy Circle Cir Trail Row Gardens Grove Mews Quay Walk Hill"""
)
ROADS = words("straße strasse str. weg allee platz gasse ring damm ufer chaussee steig straat laan plein gracht kade gatan vägen vej gade")
HOUSE = r"[0-9]{1,5}(?: ?[a-zA-Z](?!\w))?(?:[-/][0-9]{1,4})?"
CITY = (
    rf"(?:,? {{0,2}}(?:(?:[A-Z]{{1,2}}-)?[0-9]{{4,5}}(?: [A-Z]{{2}})? {NAME}(?: {NAME}){{0,2}}"
    rf"|(?:{NAME},? ){{1,3}}(?:[A-Z]{{2}},? )?(?:[0-9]{{5}}(?:-[0-9]{{4}})?|[A-Z]{{1,2}}[0-9][A-Z0-9]? [0-9][A-Z]{{2}}|[A-Z][0-9][A-Z] [0-9][A-Z][0-9])))?"
)
FLAT = r"(?:,? (?:[aA]pt|[uU]nit|[sS]uite|[fF]lat|#)\.? ?[0-9A-Za-z]{1,5})?"
BEFORE_ROAD = re.compile(
    rf"(?:(?<![\w.,-])(?P<house>{HOUSE}) )?(?:(?:[A-ZÄÖÜ][\w.-]{{0,20}} ){{1,3}}|(?:{NAME}[ -]){{0,3}}(?<!\w)[A-ZÄÖÜ][A-Za-zäöüßé.-]{{1,40}})\Z"
)


def road(match: re.Match[str]) -> Span | None:
    """Ackerstraße 221, 10115 Berlin; 221 Ackerstraße. The match begins at `straße`; a house number must be before or after."""
    before = BEFORE_ROAD.search(match.string, max(0, match.start() - 90), match.start())
    return (before.start(), match.end()) if before and (before["house"] or match["house"]) else None


def _address(needles: Iterable[str], pattern: str, span: Callable = whole_value) -> Rule:
    return Rule("street_address", "<STREET_ADDRESS>", tuple(needles), re.compile(pattern), span)


ADDRESSES = (
    # 221B Baker Street, London NW1 6XE; 12 Main St, Apt 4, Springfield, IL 62704
    _address((f" {street}" for street in (*STREETS, "street", "road", "avenue", "lane")),
             rf"[1-9](?<![\w.,-].)[0-9]{{0,4}}[A-Za-z]? (?:(?:[NSEW]\.?|{NAME}) ){{1,4}}(?:{'|'.join(sorted(STREETS))}|street|road|avenue|lane)\b\.?{FLAT}{CITY}"),
    _address((f"{form}{rest}" for road in ROADS for form in (road, road.capitalize())
              for rest in ([f" {digit}" for digit in range(1, 10)] if road not in ("straße", "strasse", "straat", "str.") else [""])),
             rf"(?:{'|'.join(re.escape(form) for road in sorted(ROADS) for form in (road, road.capitalize()))})(?!\w)(?: (?P<house>{HOUSE}))?{CITY}", road),
    # 12 rue de la Paix, 75002 Paris
    _address(("rue ", "venue ", "oulevard ", "place ", "hemin ", "llée ", "mpasse ", "quai ", "route "),
             rf"[1-9](?<![\w.,-].)[0-9]{{0,3}}(?: ?(?:bis|ter))?,? (?:rue|avenue|boulevard|place|chemin|allée|impasse|quai|route|Rue|Avenue|Boulevard)(?: (?:d[eu]s?|la|l'|le|les|{NAME})){{1,5}}{CITY}"),
    # Calle Mayor 5, 28013 Madrid; Via Roma 12, 00184 Roma; Rua Augusta, 1500
    _address(("alle ", "venida ", "Av.", "C/", "aseo ", "Via ", "via ", "iale ", "iazza ", "orso ", "Rua ", "Travessa "),
             rf"(?<!\w)(?:[Cc]alle|[Aa]venida|Av\.|C/|[Pp]aseo|[Vv]ia|[Vv]iale|[Pp]iazza|[Cc]orso|Rua|Travessa) (?:(?:d[aeio]l?l?[aeo]?s?|{NAME}),? ){{1,5}}(?:n[°º.] ?)?[0-9]{{1,4}}[A-Za-z]?(?!\w){CITY}"),
    _address(("P.O", "P. O", "PO Box", "PO box", "ostfach", "partado"), r"(?:P\.? ?O\.? ?[Bb]ox|Postfach|Apartado(?: de correos)?) [0-9 ]{1,9}[0-9]"),
    _address(("号", "丁目", "番地"), r"[\u4e00-\u9fff\u3040-\u30ffー]{2,30}?(?:路|街|道|巷|区|町|村|丁目)[\u4e00-\u9fff\u3040-\u30ff0-9０-９\-ー]{0,20}[0-9０-９]{1,5}(?:号|番地?)(?:[0-9]{1,4}[室号楼])?"),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- names
PERSON = r"[A-ZÀ-Ý][a-zà-ÿ'’]+(?:-[A-ZÀ-Ý][a-zà-ÿ]+)?"
PARTICLE = r"(?:(?:von|van|de|der|den|del|della|di|da|dos|du|la|le|bin|al|zu|zur|ter)[ -])"
FULL = rf"{PERSON}(?:[ \t]+(?:{PARTICLE}{{0,2}}{PERSON}|[A-ZÀ-Ý]\.)){{0,3}}"
MY = re.compile(r"(?i:\b(?:my|the) (?:(?:full|last|first|sur|given|family) ?)?n)\Z")
OF_A_FORM = re.compile(
    r"(?<![A-Za-z])(?i:(?:(?:full|first|last|sur|given|family|patient(?:'s)?|customer|client|contact|employee)[ _-]?|vor|nach|familien)?n)\Z"
)


def _after(before: re.Pattern[str]) -> Callable[[re.Match[str]], Span | None]:
    """The value if the text before the match ends in this pattern."""
    return lambda match: match.span("value") if before.search(match.string, max(0, match.start() - 24), match.start()) else None


def _name(needles: tuple[str, ...], pattern: str, span: Callable = whole_value) -> Rule:
    return Rule("person_name", "<PERSON_NAME>", needles, re.compile(pattern), span)


NAMES = (
    _name(("ame is ", "ame's "), rf"ame(?:'s| is)[: ]+(?P<value>{FULL})", _after(MY)),
    _name(("am called ", "'m called ", "heiße ", "heisse ", "ame ist ", "appelle ", "llamo ", "mbre es ", "chiamo ", "chamo ", "nome é "),
          rf"(?i:\bi(?: a|')m called|\bich hei(?:ß|ss)e|\bmein name ist|\bje m['’]appelle|\bme llamo|\bmi nombre es|\bmi chiamo|\bme chamo|\bmeu nome é)[: ]+(?P<value>{FULL})"),
    _name(("ame: ", "ame:\t", "ame = ", 'ame": "', "ame='", 'ame="', "ame：", "AME: "),
          rf"(?:ame|AME)[\"']?[ \t]?[:：=][ \t]{{0,3}}[\"']?(?P<value>{PERSON}(?:[ \t]+(?:{PARTICLE}{{0,2}}{PERSON}|[A-Z]\.)){{1,3}})", _after(OF_A_FORM)),
    _name(("Mr", "Ms", "Miss ", "Dr.", "Dr ", "Prof", "Herr", "Frau ", "Mme", "Mlle", "Sr.", "Sra.", "Señor"),
          rf"(?<!\w)(?:Mrs?|Ms|Miss|Mx|Dr|Prof|Herrn?|Frau|Mme|Mlle|Señora?|Sr|Sra)\.? (?:Dr\. |Prof\. )?(?P<value>{FULL})"),
    _name(("egards", "incerely", "rüße", "ordialement", "aludos", "est wishes"),
          rf"(?i:(?:kind |best |warm )?regards|(?:yours )?sincerely|best wishes|(?:mit freundlichen|viele|beste) grüßen?|cordialement|saludos),?[ \t]*\n\s{{0,4}}(?P<value>{FULL})(?=\s*(?:\n|\Z))"),
)  # fmt: skip

KINDS = {"date_of_birth": (BIRTH,), "street_address": ADDRESSES, "person_name": NAMES}
