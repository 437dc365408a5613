"""IP and MAC addresses. Off by default. Only addresses of the public internet are replaced: 127.0.0.1 and 192.168.0.1 belong to nobody."""

import ipaddress
import re

from mistral_lib.detection.rules import Rule, Span

VERSION = re.compile(r"(?i)(?:\bv|\bversion |\bver\.? ?|[=~<>^]=? ?|section |§ ?)\Z")


def public(match: re.Match[str]) -> Span | None:
    """The address if it can be reached from anywhere. Four numbers after "version" are none. The match may begin after its first part."""
    first = re.compile("[0-9A-Fa-f]{0,4}\\Z").search(match.string, max(0, match.start() - 4), match.start())
    start = first.start() if match.group().startswith(":") else match.start()
    try:
        address = ipaddress.ip_address(match.string[start : match.end()])
    except ValueError:
        return None
    if match.group().startswith(":") and len(first.group()) < 3:
        return None  # 0::2 is a slice in code
    before = match.string[max(0, start - 12) : start]
    if not address.is_global or address.is_multicast or VERSION.search(before) or re.search(r"[\w:.]\Z", before):
        return None
    return start, match.end()


def device(match: re.Match[str]) -> Span | None:
    """The address whose first part is before the match. Not the addresses of nobody and of everybody."""
    start = match.start() - (4 if match.group().startswith(".") else 2)
    return (start, match.end()) if len(set(re.sub("[^0-9a-f]", "", match.string[start : match.end()].lower()))) > 2 else None


H = "[0-9A-Fa-f]"
KINDS = {
    "ip_address": (
        Rule("ip_address", "<IP_ADDRESS>", (), re.compile(r"[0-9](?<![\w.-].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])"), public),
        Rule("ip_address", "<IP_ADDRESS>", (":",), re.compile(rf":(?<={H}:){H}{{0,4}}:[0-9A-Fa-f:]{{0,32}}(?:\.[0-9.]{{5,13}})?(?![\w:])"), public),
    ),
    "mac_address": (
        Rule("mac_address", "<MAC_ADDRESS>", (":",), re.compile(rf":(?<={H}{{2}}:)(?<![\w:-]..:){H}{{2}}(?::{H}{{2}}){{4}}(?![\w:-])"), device),
        Rule("mac_address", "<MAC_ADDRESS>", ("-",), re.compile(rf"-(?<={H}{{2}}-)(?<![\w:-]..-){H}{{2}}(?:-{H}{{2}}){{4}}(?![\w:-])"), device),
        Rule("mac_address", "<MAC_ADDRESS>", (".",), re.compile(rf"\.(?<={H}{{4}}\.)(?<![\w.]....\.){H}{{4}}\.{H}{{4}}(?![\w.])"), device),
    ),
}  # fmt: skip
