"""Speed of the corpus explorer. Figures are printed, not asserted, since they depend on the machine.

make bench                     100,000 generated records in two files
EXPLORED=1000000 make bench    a million
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from mistral_lib.corpus import sources
from mistral_lib.display.corpus_explorer import CorpusExplorer
from mistral_lib.engine.processes import ThisMachine
from mistral_lib.model import base_model
from mistral_lib.preparation import explore
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.survey.corpus_index import CorpusIndex
from mistral_lib.run.settings import Settings

WORDS = np.array([f"word{n}" for n in range(400)])


def generate(folder: Path, count: int) -> None:
    """Records of 5 to 300 words in 17 domains, two files."""
    dice = np.random.default_rng(0)
    for name in ("first", "second"):
        with open(folder / f"{name}.jsonl", "wb") as file:
            for n in range(count // 2):
                answer = " ".join(WORDS[dice.integers(0, len(WORDS), dice.integers(5, 300))])
                row = {"prompt": f"What is {name} {n}?", "completion": f"{answer} {name}{n}", "domain": f"domain{n % 17}"}
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def timed(what: str, work: Callable[[], object]) -> object:
    started = time.perf_counter()
    result = work()
    print(f"{what:50} {time.perf_counter() - started:8.3f} s")
    return result


def test_each_operation_of_the_explorer_is_timed(home: Path, capsys: pytest.CaptureFixture) -> None:
    count = int(os.environ.get("EXPLORED", "100000"))
    folder = home / "corpora" / "large"
    folder.mkdir(parents=True)
    generate(folder, count)
    settings = Settings(run_name="large", corpus_paths=["corpora/large"], operatives_paths=[])
    resolved, tokenizer = sources.resolve(settings), base_model.load_tokenizer(settings.base_model)
    found, hashes = resolved.files, sources.inputs(resolved.files)
    cache = PartCache(home / "work", "explored")
    with capsys.disabled():
        print(f"\n{count:,} records, {sum(file.size for file in found) / 2**20:.0f} MiB")
        timed("corpus stage", lambda: explore.write_inventory(home, settings, resolved, tokenizer, hashes, cache, ThisMachine()))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        index = CorpusIndex(home, found, settings)
        explorer = timed("open the explorer", lambda: CorpusExplorer(index, tokenizer))
        timed("next", explorer.next.click)
        timed("filter by domain", lambda: setattr(explorer.choices["domain"], "value", "domain3"))
        timed("remove the filter", lambda: setattr(explorer.choices["domain"], "value", ""))
        timed("jump to the last row", lambda: setattr(explorer.place, "value", count))
        timed("jump to the middle", lambda: setattr(explorer.place, "value", count // 2))
        timed("a page back", lambda: setattr(explorer.place, "value", count // 2 - 300))
        timed("search all texts", lambda: setattr(explorer.query, "value", f"second{count // 2 - 1}"))
        assert "1 of " in explorer.status.value
        explorer.query.value = ""
        timed("near-duplicates of a record, in the background", lambda: (explorer.near_duplicates.click(), explorer.near_search.wait()))
        print(f"peak memory above that of the survey: {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MiB")
    assert "no near-duplicates of this record" in explorer.status.value
