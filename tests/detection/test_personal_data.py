"""Every kind of personal data is found completely; kinds that are off by default are found only if they are named."""

import time
from typing import get_args

import pytest

from mistral_lib.curation.checks import Checks
from mistral_lib.curation.redaction import GROUPS, USUAL, redact
from mistral_lib.detection import kinds
from mistral_lib.run.settings import PersonalKind, Settings

EVERY = tuple(GROUPS)

USUAL_KINDS = [  # kind, text before, value, text after
    ("email", "mailto:", "anna.keller" + "@gmail.com", ""), ("email", "write to ", "a.k+x" + "@firma.immo", "."), ("email", "reach me: ", "anna.keller (at) gmail (dot) com", ""), ("email", "", "anna[at]firma[dot]de", " please"),
    ("email", "", "anna AT firma DOT com", ""), ("email", "", "anna.keller at firma dot co dot uk", ""), ("email", "?to=", "anna%40firma.de", "&x=1"), ("email", "", "anna&#64;firma.de", ""), ("email", "", "info@почта.рф", ""), ("email", "", "anna {at} uni-köln.de".replace("ö", "oe"), ""),
    ("email", "", "anna(at)firma.de", " now"), ("email", "", "anna@xn--mller-kva.de", ""), ("email", "", "anna @ firma . com", ""),
    ("phone", "call ", "+1 415-555-2671", ""), ("phone", "call ", "415 555 2671", " now"), ("phone", "", "415.555.2671", ""), ("phone", "", "1-800-555-2671", ""), ("phone", "", "(415) 555-2671", ""), ("phone", "", "+44 (0)20 7946 1958", ""),
    ("phone", "mobile ", "07700 912345", ""), ("phone", "Tel. ", "030/90182055", ""), ("phone", "ring ", "0049 170 1234567", ""), ("phone", "Handy: ", "0171-1234567", ""), ("phone", "电话：", "13812345678", ""), ("phone", "手机 ", "13812345678", ""),
    ("phone", "電話: ", "03-3201-1234", ""), ("phone", "携帯 ", "090-1234-5678", ""), ("phone", "", "8 (495) 123-45-67", ""), ("phone", "тел. ", "8 495 123-45-67", ""), ("phone", "tél : ", "06 12 34 56 78", ""), ("phone", "", "01.42.68.53.00", ""),
    ("phone", "전화 ", "02-123-4567", ""), ("phone", "", "010-1234-5678", ""), ("phone", "", "(11) 91234-5678", ""), ("phone", "Móvil: ", "612 345 678", ""), ("phone", "mobile: ", "98765 43210", ""), ("phone", "", "0412 345 678", ""), ("phone", "WhatsApp: ", "+5511912345678", ""),
    ("phone", "", "(030) 901820-55", ""), ("phone", "phone number is ", "555-867-5309", ""), ("phone", "tel: ", "020-6241111", ""), ("phone", "", "+39 06 6982 1", ""), ("phone", "", "+49‑170‑1234567", ""), ("phone", '"phone": "', "4155552671", '"'),
    ("phone", "", "079 412 63 58", ""), ("phone", "", "070-412 63 58", ""), ("phone", "", "0532 412 63 58", ""), ("phone", "", "0471 23 45 68", ""), ("phone", "https://wa.me/", "491701234567", ""), ("email", "", "joe.blow_at_web.de", " please"), ("email", "", "jblow_at_mail.firma.com", "."),
    ("iban", "iban: ", "de89370400440532013000", ""), ("iban", "", "NL91 ABNA 0417 1643 00", ""), ("iban", "", "MT84MALT011000012345MTLCAST001S", ""), ("iban", "", "GB29\xa0NWBK\xa06016\xa01331\xa09268\xa019", ""), ("iban", "", "CH93-0076-2011-6238-5295-7", ""),
    ("card_number", "", "6762491234567895", ""), ("card_number", "", "4532\xa01234\xa05678\xa09014", ""), ("card_number", '{"number":"', "4532123456789014", '"}'), ("card_number", "", "3714-496353-98431", ""), ("card_number", "pay ", "2200 1234 5678 9019", ""),
    ("home_path", "in /mnt/c/Users/", "akeller", "/x"), ("home_path", "/export/home/", "akeller", "/x"), ("home_path", "ssh ", "akeller", "@10.0.0.5"), ("home_path", "rsync x ", "akeller", "@server:/data"), ("home_path", "C:\\Documents and Settings\\", "Anna Keller", "\\x"),
    ("bank_account", "account ", "31926819", ""), ("bank_account", "sort code ", "60-16-13", ""), ("bank_account", "routing number: ", "121042882", ""), ("bank_account", "BLZ ", "37040044", ""), ("bank_account", "Kontonummer: ", "0532013000", ""), ("bank_account", "BIC: ", "COBADEFFXXX", ""),
]  # fmt: skip
MORE_KINDS = [
    ("social_security_number", "SSN: ", "536904399", ""), ("social_security_number", "", "536-90-4399", " is mine"), ("social_security_number", "NINO ", "AB 12 34 56 C", ""), ("social_security_number", "AHV ", "756.9217.0769.85", ""), ("social_security_number", "social security number is ", "536 90 4399", ""),
    ("national_id", "Steuer-ID ", "86 095 742 719", ""), ("national_id", "Aadhaar ", "2345 6789 0124", ""), ("national_id", "DNI ", "12345678Z", ""), ("national_id", "", "12345678-Z", ""), ("national_id", "CPF ", "529.982.247-25", ""), ("national_id", "身份证号 ", "11010519491231002X", ""),
    ("national_id", "", "RSSMRA85T10A562S", ""), ("national_id", "PESEL: ", "44051401458", ""), ("national_id", "driver's license ", "D1234567", ""), ("national_id", "", "900101-1234567", ""), ("national_id", "BSN ", "111222333", ""),
    ("passport_number", "Passport No. ", "C03005988", ""), ("passport_number", "Reisepass: ", "C01X00T47", ""), ("passport_number", "", "P<D<<MUSTERMANN<<ERIKA<<<<<<<<<<<<<<<<<<<<<<<", ""), ("passport_number", "", "C01X00T478D<<6408125F2702283<<<<<<<<<<<<<<<4", ""), ("passport_number", "护照号码：", "E12345678", ""),
    ("license_plate", "car ", "B-AK 1234", ""), ("license_plate", "license plate ", "7ABC123", ""), ("license_plate", "Kennzeichen: ", "M-AB 123", ""), ("license_plate", "plate ", "AB12 CDE", ""), ("license_plate", "immatriculation ", "AB-123-CD", ""),
    ("vehicle_number", "VIN ", "1HGCM82633A004352", ""), ("vehicle_number", "", "1HGCM82633A004352", ""), ("vehicle_number", "FIN: ", "WVWZZZ1JZXW000001", ""),
    ("ip_address", "from ", "84.153.22.107", " at"), ("ip_address", "addr ", "2003:e5:1f0a:4c00:8d2e:51ff:fe3a:9b21", ""), ("ip_address", "", "2a00:1450:4001:81b::200e", ""), ("ip_address", "http://", "84.153.22.107", ":8080/"),
    ("mac_address", "", "3c:22:fb:9a:10:7e", ""), ("mac_address", "", "3C-22-FB-9A-10-7E", ""), ("mac_address", "", "3c22.fb9a.107e", ""),
    ("date_of_birth", "born ", "1984-03-17", ""), ("date_of_birth", "DOB: ", "03/17/1984", ""), ("date_of_birth", "Geburtsdatum: ", "17.03.1984", ""), ("date_of_birth", "born on ", "17 March 1984", ""), ("date_of_birth", "date of birth ", "March 17, 1984", ""), ("date_of_birth", "geboren am ", "17. März 1984", ""), ("date_of_birth", "生年月日：", "1984年3月17日", ""), ("date_of_birth", '"birth_date": "', "1984-03-17", '"'),
    ("street_address", "lives at ", "221 Ackerstrasse, 10115 Berlin", ""), ("street_address", "", "Ackerstraße 221, 10115 Berlin", ""), ("street_address", "at ", "12 Main St, Apt 4, Springfield, IL 62704", ""), ("street_address", "", "221B Baker Street, London NW1 6XE", ""), ("street_address", "", "12 rue de la Paix, 75002 Paris", ""),
    ("street_address", "", "Via Roma 12, 00184 Roma", ""), ("street_address", "", "Calle Mayor 5, 28013 Madrid", ""), ("street_address", "", "P.O. Box 1234", ""), ("street_address", "", "Am Alten Weg 3", ""), ("street_address", "", "Kerkstraat 12, 1017 Amsterdam", ""),
    ("person_name", "my name is ", "Annegret Kellerwald", ""), ("person_name", "ich heiße ", "Annegret Kellerwald", "."), ("person_name", "Name: ", "Anna von der Heide", ""), ("person_name", "Dear Mrs. ", "Kellerwald", ","), ("person_name", "Best regards,\n", "Anna Keller", "\n"), ("person_name", "je m'appelle ", "Anne-Marie Dupont", ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "value", "after"), USUAL_KINDS, ids=lambda value: str(value)[:20])
def test_the_usual_kinds_are_found_completely_by_default(kind: str, before: str, value: str, after: str) -> None:
    shown, counts = redact(f"{before}{value}{after}", USUAL)
    placeholder = "<USER>" if kind == "home_path" else f"<{kind.upper()}>"
    assert (shown, counts) == (f"{before}{placeholder}{after}", {kind: 1})
    assert redact(shown, EVERY) == (shown, {})


@pytest.mark.parametrize(("kind", "before", "value", "after"), MORE_KINDS, ids=lambda value: str(value)[:20])
def test_further_kinds_are_found_if_they_are_named(kind: str, before: str, value: str, after: str) -> None:
    text = f"{before}{value}{after}"
    shown, counts = redact(text, (kind,))
    assert (shown, counts) == (f"{before}<{kind.upper()}>{after}", {kind: 1})
    assert redact(text, ("secrets", "personal_data"))[0].endswith(text[-4:] or text), "off by default"
    everything, counts = redact(text, EVERY)
    assert counts and not any(value[start : start + 6] in everything for start in range(max(1, len(value) - 5))), everything


def test_the_parameter_names_the_kinds_and_switches_them_on() -> None:
    assert set(get_args(PersonalKind)) == set(kinds.MORE) and set(GROUPS) == {"secrets", "personal_data", *kinds.MORE}
    record = ["Who is it?", "It came from 84.153.22.107, born 1984-03-17, as far as I can see."]
    assert Checks(Settings()).inspect(record).texts == record
    chosen = Checks(Settings(more_personal_data=["ip_address"])).inspect(record)
    assert chosen.texts[1].startswith("It came from <IP_ADDRESS>, born 1984") and chosen.redacted == {"ip_address": 1}
    flagged = Checks(Settings(more_personal_data=["date_of_birth"], personal_data="flag")).inspect(record)
    assert flagged.texts == record and flagged.flags == ("personal_data",)
    assert Checks(Settings(more_personal_data=["ip_address"], personal_data="off")).inspect(record).texts == record


STAYS = [
    "ISBN 978-3-16-148410-0", "doi 10.1038/s41586-020-2649-2", "Order #5200012345678954 shipped", "order no. 4532123456789014", "n=4111111111111111111", "1234 5678 9012 3456", "call (555) 555-0123", "3 +12345678 = 12345681", "415-555-2671 = -2811",
    "1.e4 e5 2.Nf3 Nc6 3.Bb5 a6", "#ff00aa #00ffaa #112233", "PROJ-12345: fix", "EAN 4006381333931", "Phone: see page 12", "call f(1000000) twice", "text 2024-01-15 to 2024-02-20", "contact: 2023", "05 10 15 20 25", "shape (3, 224, 224)", "[[1000 2000 3000 4000]]",
    "x = 0.123456789", "1e10 and 10000000", "tel aviv has 460000 people", "version 1.2.3.4", "look at http://x.org/a dot b", "meet at noon dot", "page 100-200-3000", "timeout 30000000 ms", "sort codes by length", "account 12345678", "BIC is a pen", "/home/user/project", "ssh root@host",
    "the 0123 4567 8910 pattern".replace("0123 4567 8910", "1123 4567 8910"), "2024-01-15T10:30:00", "10:20:30", "192.168.1.10:8080", "a call on 12 January", "item 0-306-40615-2", "0x1234567890", "100 200 300 4000", "id 20240115123456",
    "account 2023 2024 2025 totals", "Text 1 2 3 4 5 6 7 8 9", "look_at_file.py", "created_at_utc.now()", "010 20 30 40", "self.look_at_data.at[0]",
]  # fmt: skip


@pytest.mark.parametrize("line", STAYS)
def test_what_only_looks_like_personal_data_stays(line: str) -> None:
    assert redact(line) == (line, {})


STAYS_EVEN_THEN = ["127.0.0.1", "192.168.1.10", "version 1.2.3.4", "10:20:30", "std::vector", "00:00:00:00:00:00", "x[..., 1::2] = -x[..., ::2]", "a[0::-1]", "born in Berlin", "The name is taken.", "name: string", "my name is unknown", "a long way 5 times", "int ring = 3;", "12 ways to do it", "Passport required", "the car 1234", "tax 2024",
                   "numpy 1.26.4.20240101", "000-00-0000", "12345678A"]  # fmt: skip


@pytest.mark.parametrize("line", STAYS_EVEN_THEN)
def test_what_belongs_to_nobody_stays_with_all_kinds(line: str) -> None:
    assert redact(line, EVERY) == (line, {})


HOSTILE = ["1 ", "12-", "0", "01 ", "+1", "(", "a at ", " dot ", "a(at)", "<", "P<", "A1", "1.", ":a", "aa:", "Main St ", "1 Main ", "Acker", "straße ", "weg 1", "name: A", "Mr A", "born ", "call ", "account ", "A a ", "1-", "0049 "]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    hostile = (piece * (30_000 // len(piece) + 1))[:30_000] + "!"
    started = time.process_time()
    redact(hostile, EVERY)
    assert time.process_time() - started < 1
