"""Made-up values in the shapes of real ones, assembled at run time: no file of this project contains one."""

import random
import string

DICE = random.Random(12)
ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
BASE64 = ALNUM + "+/"
BASE58 = "".join(c for c in ALNUM if c not in "0OIl")


def text(count: int, alphabet: str = ALNUM) -> str:
    """Random characters with a digit and, if the alphabet has them, letters of both cases in the first places."""
    first = [next((c for c in wanted if c in alphabet), "") for wanted in ("7", "aq", "Z")]
    fixed = "".join(first)[:count]
    return fixed + "".join(DICE.choice(alphabet) for _ in range(count - len(fixed)))


def upper(count: int) -> str:
    return text(count, string.ascii_uppercase + string.digits)


def lower(count: int) -> str:
    return text(count, string.ascii_lowercase + string.digits)


def digits(count: int) -> str:
    return str(DICE.randint(1, 9)) + "".join(DICE.choice(string.digits) for _ in range(count - 1))


def hexadecimal(count: int) -> str:
    return text(count, HEX)


def uuid() -> str:
    return "-".join(hexadecimal(count) for count in (8, 4, 4, 4, 12))


def password() -> str:
    """Ten characters of all kinds that alternate, as a generator makes them."""
    return "".join(DICE.choice(alphabet) for alphabet in (string.ascii_uppercase, string.ascii_lowercase, string.digits) * 3) + "x"
