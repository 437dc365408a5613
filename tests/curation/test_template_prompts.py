"""Prompts that fill in one template are compared by what they fill in."""

import random
from pathlib import Path

import numpy as np

from mistral_lib.curation import minhash, template_prompts
from mistral_lib.curation.near_duplicates import NearDuplicates
from mistral_lib.curation.template_prompts import TEMPLATE, Prompts

WORDS = [f"word{number}" for number in range(3000)]
INSTRUCTION = " ".join(f"rule{number}" for number in range(150))


def compared(folder: Path, texts: list[str]) -> Prompts:
    near = NearDuplicates(folder / "near", 0.8)
    near.append(minhash.sign(texts, 0.8, 42))
    return Prompts(near, lambda places: [texts[place] for place in places], folder / "rest", 42)


def filled(count: int, words: int = 12, template: str = INSTRUCTION) -> list[str]:
    rng = random.Random(count)
    return [f"{template} {' '.join(rng.choices(WORDS, k=words))}" for _ in range(count)]


def test_inputs_of_one_template_do_not_agree_but_copies_of_an_input_do(tmp_path: Path) -> None:
    texts = filled(200)
    texts += [texts[3], f"{texts[4]} end", texts[5]]  # an equal prompt, a near-duplicate by its input, an equal prompt
    prompts = compared(tmp_path, texts)
    components = prompts.component_of.tolist()
    assert components[:200] == list(range(200)) and components[200] == 3 and components[202] == 5
    assert components[201] == 4 and prompts.pairs.tolist() == [[3, 200], [4, 201], [5, 202]]
    u, v = np.array([3, 4, 5, 5]), np.array([200, 201, 202, 5])
    assert prompts.agree(u, v).tolist() == [True] * 4


def test_a_single_word_that_is_filled_in_tells_prompts_apart(tmp_path: Path) -> None:
    texts = [f"{INSTRUCTION} {word}" for word in WORDS[: TEMPLATE + 1]]
    assert compared(tmp_path, texts).component_of.tolist() == list(range(TEMPLATE + 1))


def test_up_to_so_many_prompts_are_copies_with_small_changes(tmp_path: Path) -> None:
    assert set(compared(tmp_path / "few", filled(TEMPLATE, 3)).component_of.tolist()) == {0}
    assert len(set(compared(tmp_path / "more", filled(TEMPLATE + 1, 3)).component_of.tolist())) == TEMPLATE + 1
    copies = filled(TEMPLATE, 3) * 3  # equal prompts count once
    assert set(compared(tmp_path / "equal", copies).component_of.tolist()) == {0}


def test_two_templates_are_told_apart_and_other_prompts_are_compared_as_before(tmp_path: Path) -> None:
    other = " ".join(f"law{number}" for number in range(150))
    near = [f"{' '.join(WORDS[:40])} {end}" for end in ("one", "two", "three")]
    texts = [*filled(60), *near, *filled(50, template=other), "Yes?", "yes?"]
    random.Random(1).shuffle(texts)
    prompts = compared(tmp_path, texts)
    of_near = [place for place, text in enumerate(texts) if text in near]
    components = prompts.component_of
    assert set(components[of_near].tolist()) == {min(of_near)}
    assert len(set(components.tolist())) == len(texts) - 2
    assert prompts.agree(np.array(of_near[:1]), np.array(of_near[1:2])).tolist() == [True]


def test_the_order_of_prompts_and_the_size_of_batches_change_nothing(tmp_path: Path, monkeypatch) -> None:
    texts = filled(120)
    texts += [f"{text} end" for text in texts[:20]]

    def groups(given: list[str]) -> set[frozenset[str]]:
        members: dict[int, set[str]] = {}
        for text, first in zip(given, compared(tmp_path, given).component_of.tolist(), strict=True):
            members.setdefault(first, set()).add(text)
        return {frozenset(own) for own in members.values()}

    expected = groups(texts)
    assert sorted(map(len, expected)) == [1] * 100 + [2] * 20
    monkeypatch.setattr(template_prompts, "BATCH", 7)
    random.Random(2).shuffle(texts)
    assert groups(texts) == expected
