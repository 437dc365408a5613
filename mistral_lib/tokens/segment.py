"""A segment of an encoded record: one control token, or the text between two of them."""

from typing import NamedTuple


class Segment(NamedTuple):
    """Text between two control tokens, or one control token."""

    text: str = ""
    control: int = -1
    graded: bool = False  # from character `graded_from` on, and no token before it
    graded_from: int = 0
    at_start: bool = False
