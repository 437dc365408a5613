"""How fast and how lean is preparation? Figures are printed, never asserted: the machine decides them.

make bench                                   the demo corpus against bare tokenisation
RECORDS=1000000 make bench                   also that many generated records, each size in a process of its own
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from mistral_lib import base_model, chat_format, preparation, sources
from mistral_lib.settings import Settings

OFF = dict.fromkeys(("normalised", "unescaped_newlines", "secrets", "personal_data", "answer_too_short", "boilerplate", "placeholder_answer",
                     "refusal", "mostly_html", "low_letter_share", "odd_code_fences", "control_strings"), "off")  # fmt: skip
WORDS = [
    "tensor",
    "matrix",
    "kernel",
    "gradient",
    "vector",
    "index",
    "buffer",
    "token",
    "layer",
    "batch",
    "loss",
    "weight",
    "shape",
    "axis",
    "value",
    "option",
]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """The demo corpus as records, and an own place for runs."""
    settings = Settings()
    found = sources.of_settings(settings)
    return [record for file in found for record in records_of(file, settings)]


def records_of(file: sources.SourceFile, settings: Settings) -> list:
    from mistral_lib.records import map_row

    return [map_row(row.value, row.source) for row in sources.rows(file) if row.problem is None]


def timed(work, repeats: int = 3) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def test_preparation_against_bare_tokenisation(rows: list, tmp_path: Path) -> None:
    tokenizer = base_model.load_tokenizer(Settings().base_model)
    texts = ["".join(p.text for p in chat_format.pieces(tokenizer, r.messages)) if r.messages else r.text for r in rows]

    def bare() -> None:
        for start in range(0, len(texts), 512):
            tokenizer(texts[start : start + 512], add_special_tokens=False)

    def prepare(**changes: object) -> None:
        settings = Settings(run_name="bench", **changes)
        target = tmp_path / str(time.perf_counter())
        target.mkdir()
        preparation.Preparation(target, settings, tokenizer).carry_out(sources.resolve(settings))

    seconds = {
        "bare batch tokenisation": timed(bare),
        "preparation, checks and near-duplicates off": timed(lambda: prepare(**OFF, near_duplicate_threshold=1.0)),
        "preparation, everything on": timed(prepare),
    }
    print(f"\n{len(rows):,} rows of the demo corpus, medians of 3")
    for what, value in seconds.items():
        print(f"  {what:45} {value:6.2f} s  {len(rows) / value:8,.0f} rows/s  {seconds['bare batch tokenisation'] / value:5.0%} of bare")


GENERATE = """
import random, sys, orjson
from pathlib import Path
count, path, words = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split()
rng = random.Random(0)
path.parent.mkdir(parents=True, exist_ok=True)
with open(path, "wb") as file:
    for n in range(count):
        answer = " ".join(f"{rng.choice(words)}{rng.randrange(9999)}" for _ in range(100))
        if n % 7 == 6:
            answer = earlier + f" {n}"  # one in seven is a near-duplicate of the one before
        earlier = answer
        file.write(orjson.dumps({"prompt": f"What is number {n}?", "completion": answer, "module": f"part{n // 10}"}) + b"\\n")
"""
PREPARE = """
import sys, time
from mistral_lib import preparation
from mistral_lib.settings import Settings
from mistral_lib.run import Run
run = Run.open(Settings(run_name="big", corpus_paths=[sys.argv[1]], operatives_paths=[]))
started = time.perf_counter()
report = preparation.prepare(run)
seconds = time.perf_counter() - started
print(f"{report['records_read']:,} records: {seconds:.0f} s, {report['records_read'] / seconds:,.0f} rows/s, peak {report['peak_memory_mib']:,} MiB, "
      f"near-duplicates {report['duplicates_near']:,}, leaked {report['leaked_exact']} and {report['leaked_near']}")
"""


@pytest.mark.skipif("RECORDS" not in os.environ, reason="set RECORDS=1000000 to generate and prepare that many records")
def test_memory_hardly_grows_with_the_number_of_records(tmp_path: Path) -> None:
    print()
    for count in (int(os.environ["RECORDS"]) // 10, int(os.environ["RECORDS"])):
        path = tmp_path / str(count) / "rows.jsonl"
        subprocess.run([sys.executable, "-c", GENERATE, str(count), str(path), " ".join(WORDS)], check=True)
        environment = {**os.environ, "MISTRAL_WORKBOOK_HOME": str(path.parent)}
        done = subprocess.run([sys.executable, "-c", PREPARE, str(path)], env=environment, capture_output=True, text=True)
        print(f"  {path.stat().st_size / 1e6:,.0f} MB, " + (done.stdout.strip() or done.stderr[-2000:]))
