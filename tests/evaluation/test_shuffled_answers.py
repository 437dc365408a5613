"""Answers that belong to other prompts: training on them lowers the test loss as well, and the verdict must still not be `ship`.

With the embedded model and corpus and the demo's 12 steps and learning rate; only the order of the training answers differs.

CONTROL=1 python -m pytest tests/evaluation/test_shuffled_answers.py     trains also with every answer at its own prompt: no rule fails
"""

import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, map_row
from mistral_lib.evaluation import evaluate
from mistral_lib.model import demo_model
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files, params
from mistral_lib.run.paths import params as params_folder
from mistral_lib.run.settings import Settings
from tests.evaluation.test_evaluate import train

pytestmark = pytest.mark.long
PER_DOMAIN = 150  # chats
LONGEST = 200  # characters of an answer: short ones make many records of a few tokens
CONTROL = pytest.mark.skipif("CONTROL" not in os.environ, reason="set CONTROL=1 to train on the right answers as well")
CHANGES = {"operatives_paths": [], "retention_paths": [], "general_prompts": 0, "sample_count": 0, "test_share": 0.25, "near_duplicate_threshold": 1.0,
           "max_test_tokens": 4096, "max_probe_tokens": 4096, "max_validation_tokens": 512, "validate_every_steps": 0,
           "checkpoint_every_steps": 12, "domain_weights": {}, "max_steps": 12, "learning_rate": 2e-3, "max_tokens": 512, "micro_batch_size": 2}  # fmt: skip


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The settings of the demo without measurements that the worth of prompts does not need."""
    return params.load(params_folder() / "demo.yaml").model_copy(update={**CHANGES, "base_model": str(demo_model.folder())})


@pytest.fixture(scope="module")
def chats() -> list[Record]:
    """Short chats of each domain of the demo corpus. No answer occurs twice: equal answers link documents, and shuffling them could
    move a document to another split."""
    found: dict[str, list[Record]] = {}
    answers: set[str] = set()
    for row in (row for file in sources.find(["demo:corpus"], "corpus") for row in sources.rows(file)):
        record = map_row(row.value, row.source)
        of_domain = found.setdefault(record.domain, [])
        if record.messages and len(record.answer) <= LONGEST and record.answer not in answers and len(of_domain) < PER_DOMAIN:
            of_domain.append(record)
            answers.add(record.answer)
    return [record for of_domain in found.values() for record in of_domain]


def prepared(home: Path, name: str, chats: list[Record], settings: Settings) -> Run:
    rows = [{"messages": chat.messages, "domain": chat.domain, "module": chat.source_group} for chat in chats]
    files.write_json_lines(home / "corpora" / name / "chats.jsonl", rows)
    run = Run.open(settings.model_copy(update={"run_name": name, "corpus_paths": [f"corpora/{name}"]}))
    prepare.prepare(run)
    return run


def of_split(run: Run, split: str) -> dict[str, int]:
    """Record id → position among the chats, for the records kept in a split."""
    rows = pq.read_table(run.folder / "data" / "records.parquet", filters=[("split", "==", split)]).to_pylist()
    return {row["record_id"]: int(row["source"].rsplit(":")[-1]) - 1 for row in rows}


def shuffled(chats: list[Record], places: list[int], seed: int) -> list[Record]:
    """The chats; those at `places` exchange their answers at random within their domain."""
    rng, result = random.Random(seed), list(chats)
    for domain in sorted({chat.domain for chat in chats}):
        own = [place for place in places if chats[place].domain == domain]
        for place, other in zip(own, rng.sample(own, len(own)), strict=True):
            messages = [*chats[place].messages[:-1], chats[other].messages[-1]]
            result[place] = Record(domain, chats[place].source, chats[place].source_group, "messages", messages=messages)
    return result


@pytest.mark.parametrize("answers", ["shuffled", pytest.param("right", marks=CONTROL)])
def test_an_adapter_trained_on_shuffled_answers_does_not_ship(answers: str, chats: list[Record], settings: Settings, home: Path) -> None:
    run = right = prepared(home, "right", chats, settings)
    if answers == "shuffled":
        run = prepared(home, "shuffled", shuffled(chats, sorted(of_split(right, "train").values()), settings.seed), settings)
        common = of_split(run, "train").keys() & of_split(right, "train").keys()
        assert len(common) < 0.05 * len(of_split(right, "train")) and of_split(run, "test") == of_split(right, "test")
    train(run)
    result = evaluate.evaluate(run)
    print(f"\n{answers} answers: {result['sentence']}")
    outcomes = {one["rule"]: one["outcome"] for one in result["rules"]}
    assert outcomes.pop("prompts still count") == ("failed" if answers == "shuffled" else "passed"), result["prompt_worth"]
    assert [outcomes.pop(name) for name in ("little forgotten", "answers stop")] == ["unknown"] * 2, "they are not measured here"
    assert set(outcomes.values()) == {"passed"}, "all other rules pass, as after training on the right answers"
    assert result["verdict"] == ("do not ship" if answers == "shuffled" else "not enough evidence")
