"""Which answers the row itself says are not to be learned: a weight of 0, `train: false`, a thumb down, the lowest rating.

A turn that is not graded stays as context of later answers; a row without any graded answer is rejected with its reason.
"""

from collections.abc import Mapping
from typing import Any

from mistral_lib.shapes.cells import Cells, UnmappableError

TURN_WEIGHTS = ("weight", "train", "training", "loss_weight", "trainable", "train_on_turn", "learn", "train_detail", "loss",
                "loss_mask")  # fmt: skip
MASKS = ("masked",)  # true: not to be learned
WEIGHT_KEYS = frozenset((*TURN_WEIGHTS, *MASKS))
ROW_WEIGHTS = ("weight", "train", "training", "loss_weight", "sample_weight", "trainable")
RATINGS = ("kto_tag", "is_good", "desirable", "helpfulness", "thumb", "thumbs", "feedback", "is_correct", "accepted", "is_accepted")
IF_BOOLEAN = ("chosen", "correct")  # ratings only then
ABOUT_ROW = frozenset(("label", *ROW_WEIGHTS, *RATINGS, *IF_BOOLEAN))
KTO_LABELS = frozenset({"true", "false", "desirable", "undesirable"})  # a label with another value may be the number of a class
BAD = frozenset(
    {"false", "0", "bad", "undesirable", "rejected", "reject", "wrong", "incorrect", "thumbs_down", "down", "negative", "dislike"}
)
GOOD = frozenset(
    {"true", "1", "good", "desirable", "chosen", "accepted", "accept", "right", "correct", "thumbs_up", "up", "positive", "like"}
)


def is_graded(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is to be learned. Spans of characters that are not to be learned make all of it context."""
    if WEIGHT_KEYS.isdisjoint(turn):
        return True
    for key in TURN_WEIGHTS:
        value = turn.get(key)
        if isinstance(value, list):
            if any(isinstance(part, dict) and is_zero(part.get("train")) for part in value):
                return False
        elif is_zero(value):
            return False
    return not any(turn.get(key) in (1, True) or str(turn.get(key)).strip().lower() == "true" for key in MASKS)


def is_zero(value: Any) -> bool:
    """0 or false, also as text; None says nothing."""
    if isinstance(value, str):
        return value.strip().lower() in ("0", "0.0", "false", "no")
    return isinstance(value, bool | int | float) and value == 0


def require_graded(cells: Cells) -> None:
    """Errors: UnmappableError if the row says that its answers are not to be learned."""
    if not cells.has_any(ABOUT_ROW):
        return
    require_weight(cells)
    about = [key for key in IF_BOOLEAN if isinstance(cells.values.get(key), bool)]
    about += ["label"] if str(cells.values.get("label")).strip().lower() in KTO_LABELS else []
    for key in (*(name for name in about if name not in cells.used), *RATINGS):
        found = rating(cells.values.get(key))
        if found is False:
            raise UnmappableError("answer_is_rated_bad")
        if found:
            cells.use(key)


def require_weight(cells: Cells) -> None:
    """Errors: UnmappableError if the weight of the row is 0."""
    for key in ROW_WEIGHTS:
        value = cells.values.get(key)
        if is_zero(value):
            raise UnmappableError("weight_is_zero")
        if value in (1, True):
            cells.use(key)


def rating(value: Any) -> bool | None:
    """Whether a rating says good or bad; None if it says neither."""
    word = str(value).strip().lower().replace(" ", "_") if isinstance(value, bool | int | float | str) else ""
    word = word.removesuffix(".0")
    return False if word in BAD else True if word in GOOD else None
