"""Blocks of private keys: PEM, PGP, OpenSSH, PuTTY, OpenVPN, SSH2, and the private part of a JSON web key."""

import re

from mistral_lib.detection.rules import Rule, Span

KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/]{24}")  # is in a private key, but not in a text about one
LEFTOVER_KEY = re.compile(r"(?:\s|\\[nr]|[A-Za-z0-9+/=]{16,}+|[A-Za-z0-9+/]{1,15}={0,2}(?=\s*$))*+")


def key_block(match: re.Match[str]) -> Span | None:
    """The block from BEGIN to END; if END is missing, the header and the rest of the key."""
    if match["end"]:
        return match.span() if KEY_MATERIAL.search(match["body"]) else None
    end = LEFTOVER_KEY.match(match.string, match.start("body")).end()
    return (match.start(), end) if KEY_MATERIAL.search(match.string, match.start("body"), end) else None


def _rule(needles: tuple[str, ...], pattern: str, span=None) -> Rule:
    return Rule("private_key", "<PRIVATE_KEY>", needles, re.compile(pattern), *([span] if span else []))


RULES = (
    # The body ends at the next four or five dashes, so that a thousand BEGINs without END take linear time.
    _rule(
        ("-----BEGIN",),
        r"-----BEGIN (?:[A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)-----(?P<body>(?:[^-]++|-(?!----))*+)(?P<end>-----END [A-Za-z0-9 ]{1,60}-----)?",
        key_block,
    ),
    _rule(
        ("---- BEGIN SSH2",),
        r"---- BEGIN SSH2 (?:ENCRYPTED )?PRIVATE KEY ----(?P<body>(?:[^-]++|-(?!---))*+)(?P<end>---- END SSH2 [A-Z ]{1,30} ----)?",
        key_block,
    ),
    _rule(
        ("PuTTY-User-Key-File-",),
        r"PuTTY-User-Key-File-\d:(?:(?!PuTTY-User-Key-File-)[^\n]{0,200}(?:\n|\\n)){1,200}?Private-Lines: \d{1,4}(?:(?:\n|\\n)(?!Private-)[A-Za-z0-9+/=]{1,128}){1,400}(?:(?:\n|\\n)Private-(?:MAC|Hash): [0-9a-f]{16,128})?",
    ),
    _rule(
        ('"kty"',),
        r"(?<=\")(?:d|p|q|dp|dq|qi|k)\"\s{0,4}:\s{0,4}\"(?P<value>[A-Za-z0-9_-]{40,2048})(?=\")",
    ),
    _rule(
        ("<RSAKeyValue>",),
        r"<(?P<tag>D|P|Q|DP|DQ|InverseQ)>(?P<value>[A-Za-z0-9+/=]{40,2048})(?=</(?P=tag)>)",
    ),
)  # fmt: skip
