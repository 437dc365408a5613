"""The blind vote: sides are balanced, votes are stored at once and resumed, and the share has a correct interval."""

import csv
import io

import pytest

from mistral_lib.display import vote_page, votes
from mistral_lib.run import files


def samples(count: int) -> list[dict]:
    return [
        {"record_id": f"r{n}", "domain": "red", "prompt": [{"role": "user", "content": f"Question {n}?"}], "reference": "",
         "base": f"base says {n}", "adapter": f"adapter says {n}"}
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def ballot(tmp_path) -> votes.Ballot:
    return votes.Ballot(votes.pairs(samples(20)), tmp_path / "votes.jsonl")


def test_sides_are_assigned_evenly_and_stay_the_same() -> None:
    sides = [pair.adapter_left for pair in votes.pairs(samples(1000))]
    assert 440 <= sum(sides) <= 560  # four standard deviations of a fair coin
    assert sides == [pair.adapter_left for pair in votes.pairs(samples(1000))]
    assert sides != [pair.adapter_left for pair in votes.pairs(samples(1000), seed=7)]


def test_equal_answers_are_not_voted_on() -> None:
    same = [{**sample, "adapter": sample["base"]} for sample in samples(3)]
    assert votes.pairs(same) == [] and len(votes.pairs(same + samples(2))) == 2


def test_a_vote_is_on_disk_at_once_and_the_next_session_continues(ballot: votes.Ballot) -> None:
    for pair in ballot.pairs[:3]:
        ballot.vote(pair, "left" if pair.adapter_left else "right")
    again = votes.Ballot(votes.pairs(samples(20)), ballot.path)
    assert again.open_pairs() == ballot.pairs[3:] and {vote["preferred"] for vote in again.votes()} == {"adapter"}
    assert again.open_pairs("someone else") == ballot.pairs


def test_the_last_vote_counts_and_earlier_ones_stay_in_the_file(ballot: votes.Ballot) -> None:
    ballot.vote(ballot.pairs[0], "left")
    ballot.vote(ballot.pairs[0], "tie")
    assert [vote["choice"] for vote in ballot.votes()] == ["tie"] and len(files.read_json_lines(ballot.path)) == 2


def test_a_half_written_line_is_dropped_and_voting_continues(ballot: votes.Ballot) -> None:
    ballot.vote(ballot.pairs[0], "left")
    with open(ballot.path, "ab") as file:
        file.write(b'{"pair_id": "torn')
    ballot.vote(ballot.pairs[1], "right")
    assert [vote["pair_id"] for vote in ballot.votes()] == [pair.pair_id for pair in ballot.pairs[:2]]


def test_votes_on_answers_that_changed_do_not_count(ballot: votes.Ballot) -> None:
    ballot.vote(ballot.pairs[0], "left")
    changed = [{**sample, "adapter": sample["adapter"] + "!"} for sample in samples(20)]
    assert votes.Ballot(votes.pairs(changed), ballot.path).votes() == []


def filled(ballot: votes.Ballot, choices: list[str]) -> str:
    rows = list(csv.DictReader(io.StringIO(ballot.sheet())))
    for row, choice in zip(rows, choices, strict=False):
        row["choice"] = choice
    text = io.StringIO()
    writer = csv.DictWriter(text, votes.COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def test_a_sheet_is_blind_and_comes_back_as_votes(ballot: votes.Ballot) -> None:
    header, *lines = ballot.sheet().splitlines()
    assert "adapter" not in header and "base" not in header and len(lines) == 20
    sheet = filled(ballot, ["left", "Right ", "tie"])
    assert ballot.take_sheet(sheet, "anna.csv") == 3 and ballot.take_sheet(sheet, "anna.csv") == 0
    first = ballot.pairs[0]
    assert ballot.votes()[0]["preferred"] == ("adapter" if first.adapter_left else "base")
    assert ballot.take_sheet(filled(ballot, ["right"]), "anna.csv") == 1 and len(ballot.votes()) == 3


def test_a_sheet_with_errors_is_refused_and_every_row_named(ballot: votes.Ballot) -> None:
    sheet = filled(ballot, ["left", "best", "tie", "worst"])
    with pytest.raises(ValueError, match=r"row 3: 'best'.*row 5: 'worst'"):
        ballot.take_sheet(sheet, "anna.csv")
    with pytest.raises(ValueError, match="no pair 'x'"):
        ballot.take_sheet("pair_id,choice\nx,left\n", "anna.csv")
    with pytest.raises(ValueError, match="expected at least pair_id and choice"):
        ballot.take_sheet("a,b\n1,2\n", "anna.csv")
    assert ballot.votes() == []


def preference(adapter: int, base: int, ties: int = 0) -> votes.Preference:
    cast = [("adapter", "left")] * adapter + [("base", "right")] * base + [("tie", "tie")] * ties
    return votes.preference({"preferred": preferred, "choice": choice} for preferred, choice in cast)


def test_the_interval_is_wilsons() -> None:
    found = preference(14, 6, ties=3)  # (14 + 1.92) / 23.84 +- 0.1894, by hand from Wilson's formula with z = 1.96
    assert (found.low, found.high) == (pytest.approx(0.4810, abs=2e-4), pytest.approx(0.8545, abs=2e-4))
    assert found.p_value == pytest.approx(2 * 60460 / 2**20, rel=1e-9)  # 60,460 of 2^20 ways to see 14 heads or more
    assert found.verdict == "not enough evidence" and "14 of 20 decided votes" in str(found)


def test_verdicts() -> None:
    assert preference(46, 18).verdict == "adapter" and preference(18, 46).verdict == "base"
    assert preference(0, 0, ties=5).verdict == "not enough evidence" and "no decided votes yet (5 ties)" in str(preference(0, 0, 5))
    assert preference(1, 0).verdict == "not enough evidence"


def test_the_page_votes_by_key_goes_back_and_shows_the_result_at_the_end(ballot: votes.Ballot) -> None:
    page = vote_page.VotePage(votes.Ballot(ballot.pairs[:3], ballot.path))
    first = page.pair
    assert first.base not in page.prompt.value and "0 of 3" in page.place.value
    page.key.value = "1"
    assert page.key.value == "" and page.pair == ballot.pairs[1]
    page.back.click()
    assert page.pair == first
    page.key.value = "x"
    assert page.pair == first, "a key without a meaning is not a vote"
    for key in "2", "3", "r":
        page.key.value = key
    assert page.pair is None and "3 of 3" in page.place.value and "decided votes" in page.result.value
    assert [vote["choice"] for vote in page.ballot.votes()] == ["tie", "right", "right"]
    assert page._repr_mimebundle_()["text/plain"] == vote_page.PLAIN
