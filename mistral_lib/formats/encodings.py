"""Text in any encoding, as UTF-8: a stream that recodes what it reads, and names the encoding.

UTF-16 and UTF-32 are recognized by their byte order mark or their zero bytes. Other encodings are guessed at the first bytes that are not
UTF-8, from the lines around them. Single damaged bytes in a file that is UTF-8 otherwise are left to the reader, as a problem of their line.
"""

import codecs
import io
import re
from typing import Any, BinaryIO

import charset_normalizer

from mistral_lib.formats.streams import CHUNK

MARKS = ((b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
WESTERN = ("cp1252", "cp1250", "iso8859_2", "cp1254")  # single letters in words of ASCII letters
OTHERS = ["cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "tis_620", "cp932", "euc_jp", "gb18030", "big5", "cp949"]
SAMPLE = 32 * 1024  # bytes from which an encoding is guessed
MOST_CHAOS = 0.1  # of charset_normalizer; above it nothing is guessed
LETTERS = 0.6  # share of the characters beyond ASCII of a text
ZEROS = 0.3  # share of zero bytes at every second place of UTF-16 text with some ASCII in it
_KANA = re.compile("[\u3041-\u30ff]")
_HAN = re.compile("[\u4e00-\u9fff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_NO_WORD = re.compile(  # a capital or a sign inside a word, or one that hardly stands beside a letter
    r"(?<=[a-z])[A-ZÀ-ÞŠŽŒ](?=[a-z]{2})|(?<=[^\W\d_])[\u00a1-\u00ad\u00af\u00b0\u00b2-\u00b6\u00b8-\u00bf×÷‚ƒ„†‡ˆ‰˜](?=[^\W\d_])|"
    r"[£¥¼¾¹³](?=[^\W\d_])|(?<=[a-z])Ÿ|[\x80-\x9f]"
)
_NO_CP1250 = re.compile(r"[±¶](?=[^\W\d_])|(?<=[^\W\d_])[±¶]|(?<=[a-z])Ľ")  # ą, ś and ź of ISO 8859-2
_TOLERATED = 0.02  # share of them among the characters beyond ASCII
_ISO_2022 = (b"\x1b$B", b"\x1b$@")  # a change to Japanese letters
# letters of cp1252 that stand for those of Central Europe if none of its own are there
_EASTERN = (  # (each of these, none of those)
    (("[šžŠŽ]", "[èæðøìùòïÈÆÐØ]"), "[àêçöåãñÀÊÇÖÅÃÑ]"),  # Czech, Croatian, Slovene
    (("[æÆ]", "[èÈ]"), "[áéíóúàêçöøåñþÁÉÀÊÇÖØÅÑÞ]"),  # Croatian and Serbian in short texts
    (("[õÕ]", "[áéíó]", "[öü]"), "[ãçêàèîâÃÇÊÀÈÎÂ]"),  # Hungarian
)


def as_utf8(stream: BinaryIO) -> "Utf8Stream":
    return Utf8Stream(stream)


class _Recoded(io.RawIOBase):
    """The bytes of a stream in UTF-8, with newlines at the ends of lines. Errors: those of the stream."""

    def __init__(self, inner: BinaryIO) -> None:
        self.inner, self.pending, self.first = inner, b"", True
        self.encoding, self.lines, self.count, self.ends = "", 0, 0, b"\n"
        self.is_utf8, self.carriage_returns = False, False  # seen so far: a character of several bytes; only these at the ends of lines
        self.decoder: Any = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.pending:
            chunk = self.inner.read1(CHUNK)  # type: ignore[attr-defined]
            self.pending = self._recoded(chunk) if chunk else self._last()
            if not chunk:
                break
        data, self.pending = self.pending[: len(buffer)], self.pending[len(buffer) :]
        buffer[: len(data)] = data
        self.lines += data.count(b"\n")
        self.count += len(data)
        self.ends = data[-1:] or self.ends
        return len(data)

    def _recoded(self, chunk: bytes) -> bytes:
        if self.first:
            self.first = False
            self._begin(chunk)
        if self.encoding:
            chunk = self._decoded(chunk)
        elif not chunk.isascii() or self.decoder.getstate()[0]:
            chunk = self._checked(chunk)
        return chunk.replace(b"\r", b"\n") if self.carriage_returns else chunk

    def _last(self) -> bytes:
        """What is left of a character that is cut off at the end of the file."""
        if not self.encoding or self.encoding.startswith("utf"):
            return b""
        return self.decoder.decode(b"", True).encode("utf-8", "surrogateescape")

    def _begin(self, chunk: bytes) -> None:
        self.encoding = _wide(chunk[:4096]) or ("iso2022_jp" if any(mark in chunk for mark in _ISO_2022) else "")
        if self.encoding:
            self.decoder = codecs.getincrementaldecoder(self.encoding)("replace")
            chunk = chunk.replace(b"\0", b"")
        self.carriage_returns = b"\r" in chunk and b"\n" not in chunk

    def _decoded(self, chunk: bytes) -> bytes:
        return self.decoder.decode(chunk).removeprefix("\ufeff").encode("utf-8", "surrogateescape")

    def _checked(self, chunk: bytes) -> bytes:
        """The bytes as they are if they are UTF-8, otherwise decoded by the encoding that is guessed from them."""
        before = self.decoder.getstate()[0]
        try:
            self.is_utf8 |= not self.decoder.decode(chunk).isascii()
            return chunk
        except UnicodeDecodeError:
            self.decoder.reset()
        if self.is_utf8 or _mostly_utf8(before + chunk):
            self.is_utf8 = True
            return chunk
        self.encoding = guess(_lines_to_guess(chunk)) or ""
        if not self.encoding:
            self.is_utf8 = True  # unknown: its lines are reported
            return chunk
        self.decoder = codecs.getincrementaldecoder(self.encoding)("surrogateescape")
        return self._decoded(chunk)


class Utf8Stream(io.BufferedReader):
    """A stream of UTF-8 text, whatever its encoding is."""

    raw: _Recoded

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(_Recoded(stream), CHUNK)

    @property
    def encoding(self) -> str:
        """The encoding of the file; "" for UTF-8 and ASCII."""
        return self.raw.encoding

    def count_lines(self) -> int:
        """All lines of the file; reads the rest of it."""
        while self.read1(CHUNK):
            pass
        return self.raw.lines + (self.raw.ends != b"\n")


def is_utf8(data: bytes) -> bool:
    """Whether all bytes are UTF-8, the last character included."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _wide(start: bytes) -> str:
    """UTF-16 or UTF-32, by its mark or its zero bytes; "" for neither."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    zeros = [start[place::4].count(0) for place in range(4)]
    quarter = len(start) // 4
    if quarter < 2:
        return ""
    if min(zeros[1:]) > 0.9 * quarter and zeros[0] < 0.1 * quarter:
        return "utf-32-le"
    if min(zeros[:3]) > 0.9 * quarter and zeros[3] < 0.1 * quarter:
        return "utf-32-be"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if max(even, odd) > 2 * quarter * ZEROS and min(even, odd) < 0.05 * 2 * quarter:
        return "utf-16-le" if odd > even else "utf-16-be"
    return ""


def _mostly_utf8(chunk: bytes) -> bool:
    """Whether as many lines are UTF-8 as are not, ASCII aside; of a single line, whether it has as many characters of several bytes as
    damaged bytes."""
    lines = [line for line in re.split(rb"[\r\n]+", chunk) if not line.isascii()]
    if len(lines) > 1:
        return 2 * sum(_text(line, "utf-8") is not None for line in lines) >= len(lines)
    text = chunk.decode("utf-8", "surrogateescape")
    bad = sum("\udc80" <= character <= "\udcff" for character in text)
    return sum(character > "\x7f" for character in text) >= 2 * bad


def _lines_to_guess(chunk: bytes) -> bytes:
    """The lines that are not ASCII, up to SAMPLE bytes."""
    lines = b"\n".join(line for line in re.split(rb"[\r\n]+", chunk) if not line.isascii())
    return lines[:SAMPLE]


def guess(sample: bytes) -> str | None:
    """The encoding of a text that is neither UTF-8, UTF-16 nor UTF-32; None if nothing fits."""
    for encoding in ("cp932", "euc_jp"):  # kana in every sentence are a sure sign
        text = _text(sample, encoding)
        if text and len(_KANA.findall(text)) > 0.2 * sum(character > "\x7f" for character in text):
            return encoding
    runs = re.findall(rb"[\x80-\xff]+", sample)
    single = sum(len(run) <= 2 for run in runs) > len(runs) / 2
    return (_western(sample) if single else None) or _other(sample)


def _western(sample: bytes) -> str | None:
    """The encoding in which no sign stands inside a word; Central European and Turkish letters are signs or rare letters in cp1252."""
    for encoding in WESTERN:
        text = _text(sample, encoding)
        if text is None:
            continue
        odd = len(_NO_WORD.findall(text)) + (len(_NO_CP1250.findall(text)) if encoding == "cp1250" else 0)
        if odd <= _TOLERATED * sum(character > "\x7f" for character in text):
            return _eastern(text) if encoding == "cp1252" else encoding
    return None


def _eastern(text: str) -> str:
    """cp1252 or, if its letters are not those of a Western language, cp1250 or cp1254."""
    if any(all(re.search(one, text) for one in wanted) and not re.search(others, text) for wanted, others in _EASTERN):
        return "cp1250"
    return "cp1254" if re.search("[ðýþÐÝÞ]", text) and not re.search("[áíóúæ]", text) else "cp1252"


def _other(sample: bytes) -> str | None:
    found = charset_normalizer.from_bytes(sample, cp_isolation=OTHERS)
    chaos = {match.encoding: match.chaos for match in found if match.chaos <= MOST_CHAOS and _has_letters(str(match))}
    chinese = chaos.get("gb18030", 1.0) if _share(_HAN, sample, "gb18030") > 0.5 and _is_common_chinese(sample) else 1.0
    if "cp949" in chaos and _share(_HANGUL, sample, "cp949") > 0.9 and chaos["cp949"] < chinese:
        return "cp949"
    if chinese < 1:
        return "gb18030"
    return next((name for name in chaos if name != "gb18030"), None)


def _has_letters(text: str) -> bool:
    """Whether most characters beyond ASCII are letters: damaged bytes are frames and signs in many encodings."""
    beyond = [character for character in text if character > "\x7f"]
    return sum(character.isalpha() for character in beyond) > LETTERS * len(beyond)


def _is_common_chinese(sample: bytes) -> bool:
    """Whether most characters are among the common ones of GB 2312: Japanese read as GB 18030 has rare ones."""
    letters = _HAN.findall(_text(sample, "gb18030") or "")
    return sum(bool(letter.encode("gb2312", "ignore")) for letter in letters) > 0.8 * len(letters)


def _text(sample: bytes, encoding: str) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)  # the last character of a sample may be cut
    except UnicodeDecodeError:
        return None


def _share(pattern: re.Pattern, sample: bytes, encoding: str) -> float:
    text = _text(sample, encoding) or ""
    return len(pattern.findall(text)) / max(1, sum(character > "\x7f" for character in text))
