"""What a form says about a parameter's values."""

import pytest

from mistral_lib.run.settings import Settings, limits


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("max_tokens", "a whole number, at least 32 and at most 32,768"),
        ("epochs", "a number, above 0"),
        ("validation_share", "a number, above 0 and below 0.5"),
        ("objective", "one of answers, documents, both"),
        ("run_name", "letters, digits and . _ -"),
        ("base_model", "text"),
        ("corpus_paths", "a list"),
        ("require_ship", "true or false"),
    ],
)
def test_the_limits_of_a_parameter_in_words(name: str, words: str) -> None:
    assert limits(name) == words


def test_every_parameter_has_limits_in_words() -> None:
    assert all(limits(name) for name in Settings.names())
