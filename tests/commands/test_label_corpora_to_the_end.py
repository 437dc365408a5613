"""Reviews, canned replies and one-word answers, with all data parameters at their defaults and the training parameters of the demo:
the whole workbook runs, and says how many labels base and adapter get right."""

from itertools import product
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from mistral_lib.commands import notebook_runs
from mistral_lib.curation import splits
from mistral_lib.evaluation import label_accuracy
from mistral_lib.run import Run, files, params
from mistral_lib.run.settings import Settings, stages_of
from tests.support import label_corpora

pytestmark = pytest.mark.long


def everyday(name: str) -> Settings:
    """The demo's settings, with the defaults of all parameters that belong to the corpus and data stages."""
    defaults = {key: field.get_default(call_default_factory=True) for key, field in Settings.model_fields.items()}
    of_data = {key: value for key, value in defaults.items() if {"corpus", "data"} & set(stages_of(key))}
    kept = {key: params.demo()[key] for key in ("base_model", "max_tokens")}
    return Settings(**{**params.demo(), **of_data, **kept, "run_name": name, "corpus_paths": [f"corpora/{name}"], "retention_paths": []})


@pytest.mark.parametrize("name", label_corpora.CORPORA)
def test_a_corpus_with_labels_runs_to_the_end(name: str, home: Path, capsys: pytest.CaptureFixture) -> None:
    rows = label_corpora.CORPORA[name]()
    files.write_json_lines(home / "corpora" / name / "rows.jsonl", rows)
    settings = everyday(name)
    assert notebook_runs.run(settings) == 0
    run = Run.open(settings)
    kept = pq.read_table(run.folder / "data" / "records.parquet", columns=["split", "messages"]).to_pylist()
    assert len(kept) >= 0.99 * len(rows)
    found = {(orjson.loads(row["messages"])[-1]["content"], row["split"]) for row in kept}
    assert found == {(row["completion"], split) for row in rows for split in splits.SPLITS}, "every label is in every split"
    result = files.read_json(run.folder / "evaluation" / "result.json")
    with capsys.disabled():
        print(f"\n{name}: {len(kept)} of {len(rows)} rows kept; {result['sentence']}")
        print(*(rule for rule in result["rules"] if rule["rule"] == "labels better"))
    measured = result["labels"]
    assert measured["records"] >= 20
    for way, who in product(label_accuracy.WAYS, ("base", "adapter")):
        confusions = [np.array(facts[way][who]["confusion"]) for facts in measured["domains"].values()]
        right, asked = sum(int(np.trace(one)) for one in confusions), sum(int(one.sum()) for one in confusions)
        assert asked == measured["records"] and measured[way][who]["accuracy"] == pytest.approx(right / asked)
    if name == "sentiments":
        assert [rule["outcome"] for rule in result["rules"] if rule["rule"] == "labels better"] == ["passed"]
