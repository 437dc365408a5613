"""Speed and memory of preparation. Times are printed, never asserted; memory is asserted.

make bench                                   the demo corpus, with Mistral-7B's tokenizer, against bare `tokenizers` and TRL's preparation
RECORDS=1000000 make bench                   also RECORDS generated records, and a tenth of them, each in a process of its own

Alone: python -m pytest -s tests/benchmarks/test_preparation_speed.py -k trl
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, map_row
from mistral_lib.model import base_model, mistral_tokenizer
from mistral_lib.preparation import prepare as preparation
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.run import files, paths
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format
from tests.support.corpora import short_run

REPEATS = 3
TRL = "pip install --no-deps trl==1.16.0"
OFF = dict.fromkeys(("normalized", "unescaped_newlines", "secrets", "personal_data", "answer_too_short", "boilerplate", "placeholder_answer",
                     "refusal", "mostly_html", "low_letter_share", "odd_code_fences", "control_strings"), "off")  # fmt: skip
OFF |= {"most_repeated_pattern": 0, "near_duplicate_threshold": 1.0}
WORDS = "tensor matrix kernel gradient vector index buffer token layer batch loss weight shape axis value option"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """The demo corpus as records."""
    found = sources.of_settings(short_run())
    return [map_row(row.value, row.source) for file in found for row in sources.rows(file) if row.problem is None]


def interleaved(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each way. The ways take turns, so that other load on the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def mistral() -> Any:
    """Mistral-7B-Instruct's own tokenizer, from mistral-common."""
    tokenizer = mistral_tokenizer.load()
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def ours(folder: Path, **changes: Any) -> Callable[[], None]:
    """The complete data stage: read, check, split, tokenize, pack, write, and the ledger of every row."""
    settings, tokenizer = short_run(run_name="bench", **changes), mistral()

    def prepare() -> None:
        target = files.fresh_folder(folder / "ours")
        parts = PartCache(folder / "work", str(time.perf_counter()))
        preparation.Preparation(target, settings, tokenizer, parts).prepare_all(sources.resolve(settings))

    return prepare


def bare(records: list[Record]) -> Callable[[], None]:
    """The rendered texts through `tokenizers`, and nothing else."""
    tokenizer = mistral()
    texts = ["".join(p.text for p in chat_format.pieces(tokenizer, r.messages)) if r.messages else r.text for r in records]

    def tokenize() -> None:
        for start in range(0, len(texts), 512):
            tokenizer(texts[start : start + 512], add_special_tokens=False)

    return tokenize


def trl(folder: Path, kind: str, processes: int | None = None) -> Callable[[], None]:
    """SFTTrainer's own preparation: load JSON Lines, chat template, tokenize, pack. Its documents are a second data set.

    processes: dataset_num_proc; None, its default, is one."""
    import datasets
    from transformers import MistralConfig, MistralForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = mistral()
    config = SFTConfig(
        output_dir=str(folder / "trl"), packing=True, max_length=Settings().max_tokens, report_to=[], use_cpu=True, bf16=False,
        dataset_num_proc=processes,
    )  # fmt: skip
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), head_dim=16, **small))
    caches = iter(range(1000))

    def load(name: str, split: str = "train") -> Any:
        return datasets.load_dataset(
            "json", data_files=str(folder / f"{name}.jsonl"), split=split, cache_dir=str(folder / f"{name}{kind}{processes}-{next(caches)}")
        )

    trainers = {
        name: SFTTrainer(model, config, train_dataset=load(name, "train[:4]"), processing_class=tokenizer) for name in (kind, "texts")
    }

    def prepare() -> None:
        for name, trainer in trainers.items():
            trainer._prepare_dataset(load(name), tokenizer, config, True, None, "train")

    return prepare


def written_for_trl(records: list[Record], folder: Path) -> None:
    """The same rows in TRL's own formats: it takes neither several shapes nor chats and documents in one data set."""
    chats = [record for record in records if record.messages]
    shapes: dict[str, Iterator[dict[str, Any]]] = {
        "messages": ({"messages": record.messages} for record in chats),
        "completions": ({"prompt": record.prompt, "completion": record.messages[-1:]} for record in chats),
        "texts": ({"text": record.text} for record in records if not record.messages),
    }
    for name, rows in shapes.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def rivals(folder: Path, processes: int | None = None) -> dict[str, Callable[[], None]]:
    words = f", {processes} processes" if processes else ""
    return {
        f"TRL, messages: every token graded{words}": trl(folder, "messages", processes),
        f"TRL, prompt and completion: answers graded{words}": trl(folder, "completions", processes),
    }


def test_preparation_against_bare_tokenization_and_trl(records: list[Record], tmp_path: Path) -> None:
    off, on, tokens = "preparation, checks and near-duplicates off", "preparation, everything on", "bare tokenizers, in batches"
    ways, with_trl = {tokens: bare(records), off: ours(tmp_path, **OFF), on: ours(tmp_path)}, find_spec("trl") is not None
    if with_trl:
        written_for_trl(records, tmp_path)
        ways |= rivals(tmp_path)
    else:
        print(f"\nTRL is not installed, so it is not measured: {TRL}")
    seconds = interleaved(ways)
    if with_trl:  # last: once datasets has forked, every tokenizer of this process has only one thread
        seconds |= interleaved(rivals(tmp_path, 2))
    print(f"\n{len(records):,} rows of the demo corpus, Mistral-7B's tokenizer, medians of {REPEATS}, in turn")
    for what, value in seconds.items():
        print(f"  {what:52} {value:6.2f} s  {len(records) / value:8,.0f} rows/s  {seconds[tokens] / value:6.0%} of bare")
    for what in [name for name in seconds if name.startswith("TRL")]:
        print(f"  checks off: {seconds[what] / seconds[off]:.1f} times, everything on: {seconds[what] / seconds[on]:.1f} times {what}")


GENERATE = """
import random, sys, orjson
from pathlib import Path
count, path, words = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split()
rng = random.Random(0)
path.parent.mkdir(parents=True, exist_ok=True)
with open(path, "wb") as file:
    for n in range(count):
        answer = " ".join(f"{rng.choice(words)}{rng.randrange(9999)}" for _ in range(100))
        prompt = f"What is number {n}?"
        if n % 7 == 6:
            prompt, answer = asked, earlier + f" {n}"  # one in seven is a near-duplicate of the one before
        asked, earlier = prompt, answer
        file.write(orjson.dumps({"prompt": prompt, "completion": answer, "module": f"part{n // 10}"}) + b"\\n")
"""
PREPARE = """
import sys, time
from mistral_lib.preparation import prepare as preparation
from mistral_lib.run import Run
from tests.support.corpora import short_run
run = Run.open(short_run(run_name="big", corpus_paths=[sys.argv[1]]))
started = time.perf_counter()
report = preparation.prepare(run)
seconds = time.perf_counter() - started
print(f"{report['records_read']:,} records: {seconds:.0f} s, {report['records_read'] / seconds:,.0f} rows/s, peak {report['peak_memory_mib']:,} MiB, "
      f"near-duplicates {report['duplicates_near']:,}, leaked {report['leaked_exact']} and {report['leaked_near']}")
"""


def resident(process: int) -> tuple[int, int]:
    """Resident bytes of a process and its children, and how many of these are pages of files (mostly libraries)."""
    try:
        pages, of_files = map(int, Path(f"/proc/{process}/statm").read_text().split()[1:3])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # the process has just ended
        return 0, 0
    own = (pages * os.sysconf("SC_PAGE_SIZE"), of_files * os.sysconf("SC_PAGE_SIZE"))
    return tuple(map(sum, zip(own, *(resident(int(child)) for child in children), strict=True)))


@pytest.mark.skipif("RECORDS" not in os.environ, reason="set RECORDS=1000000 to generate and prepare that many records")
def test_memory_hardly_grows_with_the_number_of_records(tmp_path: Path) -> None:
    base_model.load_tokenizer(Settings().base_model)  # converts the embedded model if that is still to be done, outside of what is measured
    print()
    peaks = []
    for count in (int(os.environ["RECORDS"]) // 10, int(os.environ["RECORDS"])):
        path = tmp_path / str(count) / "rows.jsonl"
        subprocess.run([sys.executable, "-c", GENERATE, str(count), str(path), WORDS], check=True)
        path.with_name("models").symlink_to(paths.models())
        environment, errors, most = {**os.environ, "MISTRAL_WORKBOOK_HOME": str(path.parent)}, path.with_name("stderr"), (0, 0)
        with open(errors, "wb") as stderr:
            process = subprocess.Popen([sys.executable, "-c", PREPARE, str(path)], env=environment, stdout=subprocess.PIPE, stderr=stderr)
        while process.poll() is None:
            most = max(most, resident(process.pid))
            time.sleep(0.2)
        assert process.returncode == 0, errors.read_text()[-2000:]
        said = process.stdout.read().decode().strip()
        together, of_files = (value / 2**20 for value in most)
        print(
            f"  {path.stat().st_size / 1e6:,.0f} MB, {said}, all processes together at most {together:,.0f} MiB, {of_files:,.0f} of them files"
        )
        peaks.append(together)
    print(f"  ten times the records take {peaks[1] / peaks[0] - 1:+.0%} memory")
    assert max(peaks) <= 1536 and peaks[1] <= 1.15 * peaks[0], "MiB; the limit for a million records"
