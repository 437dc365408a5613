"""Cleans text for a tokenizer: one Unicode form, one line end, nothing invisible; code stays as it is.

Works on strings only. `clean` is idempotent: cleaning a cleaned text changes nothing.
"""

import re
import unicodedata

NORMALIZED = "normalized"  # repair codes
UNESCAPED = "unescaped_newlines"

LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Characters that look like a blank (NBSP, en and thin spaces ...); not U+3000, with which Chinese texts are indented.
BLANKS = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f]")
# C0 and C1 controls except tab and newline; soft hyphen, zero-width blanks, direction overrides, BOM, noncharacters.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufffe\uffff]"
)
# Zero-width joiners: Persian, Hindi and emoji need them between two of their characters; next to ASCII they are strays.
STRAY_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]++|(?<![\u200c\u200d])[\u200c\u200d]++(?![^\x00-\x7f])")
SURROGATES = re.compile("[\ud800-\udfff]")  # half a character: no tokenizer accepts it
CONTROLS = bytes([*range(9), *range(11, 32), 127])  # those of the above that an ASCII text can contain

WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:\\(?!n(?:[^a-z]|$))|(?<!\S)\\\\\w")  # C:\new and \\host, but not `Q:\nWhat`
# Splits a one-line text into parts that protect a literal \n, and literal \n outside of them. In order: an escaped backslash,
# inline code, quoted strings (an apostrophe inside a word opens none), LaTeX commands that start with n.
SCANNER = re.compile(
    r"""\\\\
    | (?<!`)`(?!`) [^`]*+ `
    | (?: (?<!\w) | (?<=\\n) ) "[^"]*+" (?!\w)
    | (?: (?<!\w) | (?<=\\n) ) '[^']*+' (?!\w)
    | \\n(?: abla | atural | e[gq]?(?=[\s$({\\,.]) | earrow | eq | ewcommand | ewline | ewpage | exists | geq | leq | mid | ode | oindent
          | olimits | onumber | ormalsize | ot(?:in)? | parallel | rightarrow | leftarrow | subseteq | u | warrow | i(?=[\s$}]) ) (?![A-Za-z])
    | (?P<newline> (?:\\r)? \\n )""",
    re.VERBOSE,
)
# A literal \n that stands as a word: after a blank or an opening bracket, before a blank, a mark or the end.
AS_A_WORD = re.compile(r"(?:(?<=[\s(\[\"'“‘,])|\A)(?:\\r)?(?:\\n)+(?=[\s.,;:!?)\]\"'”’]|\Z)")
SENTENCE_END = re.compile(r"[.!?:;。！？：][\"')\]*`]*\s*\Z")
# What only a text about escapes or patterns has: their names, [^\n], \s, \n+ as a quantifier
ABOUT_ESCAPES = re.compile(
    r"(?i)\b(?:newlines?|new[ -]line|line ?feeds?|line ?breaks?|carriage returns?|escape[ds]?|escaping|escape sequences?|backslash(?:es)?|regex(?:es|p)?|regular expressions?"
    r"|printf|whitespace)\b|\[\^\\n|\\[sdwbt](?![a-z])|\\n[+*?]\S|换行|改行|Zeilenumbruch|saut de ligne|salto de línea"
)
FEW = 4  # literal newlines: a text about escapes has few of them, an escaped text with the word `newline` has many


def clean(text: str, unescape: bool = True) -> tuple[str, tuple[str, ...]]:
    """The cleaned text and the codes of the repairs.

    unescape: also turn literal backslash-n into newlines if the text has no real ones (see `unescape_newlines`).
    """
    repairs: list[str] = []
    # One repair can make another possible (a mark meets its letter once the joiner between them is gone). Each round removes
    # something that no round puts back, so this ends, nearly always after the second round.
    while True:
        before = text
        text = normalize(text)
        if text != before:
            repairs.append(NORMALIZED)
        lines = unescape_newlines(text) if unescape else text
        if lines != text:
            repairs.append(UNESCAPED)
            text = lines
        if text == before:
            return text, tuple(dict.fromkeys(repairs))


def normalize(text: str) -> str:
    """One round: NFC, one kind of line end and blank, nothing invisible, no blanks at line ends, no empty lines at start and end."""
    if not text.isascii():
        text = SURROGATES.sub("\ufffd", INVISIBLE.sub("", LINE_ENDS.sub("\n", BLANKS.sub(" ", text))))
        text = unicodedata.normalize("NFC", STRAY_JOINERS.sub("", text))
    elif len(text.encode().translate(None, CONTROLS)) < len(text):  # counts bytes: five times as fast as a pattern
        text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if text and (text[0] == "\n" or text[-1] in " \t\n"):
        text = text.lstrip("\n").rstrip(" \t\n")  # the first line keeps its indentation: it may be code
    return text


def unescape_newlines(text: str) -> str:
    """Turns the literal backslash-n of a text that was escaped once too often into newlines; returns other texts unchanged.

    Only if the text has no real newline, no Windows path, and at least two literal ones that are not in inline code, quoted
    strings or LaTeX commands and not after another backslash. Those are kept, so a code string such as "a\\nb" is not broken in two.
    A text about newlines, in which they stand as words, is kept as well.
    """
    if "\n" in text or text.count("\\n") < 2 or WINDOWS_PATH.search(text):
        return text
    free = [piece.span() for piece in SCANNER.finditer(text) if piece.lastgroup == "newline"]
    if len(free) < 2 or _is_about_newlines(text, len(free)):
        return text
    starts, ends = zip(*free, strict=True)
    return "\n".join([text[start:end] for start, end in zip((0, *ends), (*starts, len(text)), strict=True)])


def _is_about_newlines(text: str, count: int) -> bool:
    """Whether literal newlines are what the text speaks of: they stand as words within sentences, or it names escapes and has few of them.

    count: of the literal newlines outside of code and quotations.
    """
    words = [
        found
        for found in AS_A_WORD.finditer(text)
        if found.start() and not SENTENCE_END.search(text, max(0, found.start() - 8), found.start())
    ]
    return bool(words) or (count <= FEW and ABOUT_ESCAPES.search(text) is not None)
