"""One preparation of synthetic rows in a process of its own: processor seconds and peak memory of each step of the driver.

Run: python -m tests.benchmarks.driver_steps ROWS FOLDER_OF_PARTS WORK_FOLDER      prints one line of JSON
What the workers do is replaced: the parts of rows are there already, and token windows are made with numpy. The seconds that this
takes are left out.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from mistral_lib.corpus.sources import Found, SourceFile
from mistral_lib.model import mistral_tokenizer
from mistral_lib.preparation import data_report, dropped_duplicates, prepare, split_writer, tokenization
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.prepared import AssignedSplits
from mistral_lib.preparation.record_store import PART
from mistral_lib.preparation.survey.inventory import Inventory, repeats
from mistral_lib.run import files
from mistral_lib.run.settings import Settings
from tests.benchmarks import synthetic_parts

MAX_TOKENS = 512
WORKERS = "(workers)"  # what stands in for their work


class Steps:
    """Processor seconds and peak memory of steps, which may contain others: those count for themselves."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, int] = {}  # bytes, resident
        self.open = ["rest"]
        self._begin()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._note()
        self.open.append(name)
        yield
        self._note()
        self.open.pop()

    def _note(self) -> None:
        """Adds to the innermost open step what passed since the last note, and starts the kernel's peak again."""
        name, now = self.open[-1], time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.peak[name] = max(self.peak.get(name, 0), highest())
        self._begin()

    def _begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.since = time.process_time()

    def measure(self, owner: Any, function: str, name: str) -> None:
        """From now on, each call of owner.function is a step."""
        inner = getattr(owner, function)

        def measured(*given: Any, **named: Any) -> Any:
            with self.step(name):
                return inner(*given, **named)

        setattr(owner, function, measured)


def highest() -> int:
    """The largest resident size since the kernel's peak was started again, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def token_parts(steps: Steps, rows: Callable[[], Any]) -> Callable[..., Iterator[Any]]:
    """Stands in for tokenization.parts. rows: returns the RowColumns."""

    def parts(
        tokenizer: Any, store: Any, kept: Any, settings: Settings, cache: PartCache, engine: Any, selection: int = 0
    ) -> Iterator[Any]:
        made = synthetic_parts.token_parts(kept, rows().key, cache)
        while True:
            with steps.step(WORKERS):
                part = next(made, None)
            if part is None:
                return
            yield part

    return parts


def watched(steps: Steps) -> None:
    """Measure the driver's steps and replace the workers' tokenization."""
    for owner, function, name in (
        (prepare.Preparation, "_read", "columns of all parts"), (dropped_duplicates, "searched", "near-duplicates"),
        (prepare, "drop_duplicates", "exact copies"), (prepare, "assign", "splits"), (prepare.Preparation, "_tokenized", "index of windows"),
        (AssignedSplits, "leak", "leak"), (prepare.Preparation, "_mixed", "mixture"), (split_writer, "write", "packed blocks"),
        (data_report, "write_ledger", "ledger and records"), (data_report, "figures", "report"),
    ):  # fmt: skip
        steps.measure(owner, function, name)
    seen = []
    concatenate = prepare.RowColumns.concatenate
    prepare.RowColumns.concatenate = lambda *given: seen.append(concatenate(*given)) or seen[-1]
    tokenization.parts = token_parts(steps, lambda: seen[-1])


def survey(steps: Steps, count: int, work: Path) -> int:
    """The corpus stage for `count` rows; how many are copies of others."""
    found = Inventory([SourceFile(work / "rows.jsonl", "rows.jsonl", "corpus")], files.fresh_folder(work / "corpus"))
    for start in range(0, count, PART):
        with steps.step(WORKERS):
            folder = files.fresh_folder(work / "part")
            part = synthetic_parts.survey_part(start // PART, min(PART, count - start), folder)
        with steps.step("corpus stage"):
            found.add(*part, folder)
    with steps.step("corpus stage"):
        found.index.close()
        repeated = repeats(found.key.array(), found.file.array(), list(found.facts))
    return repeated["rows.jsonl"]["rows.jsonl"]


def measure(count: int, parts: Path, work: Path) -> dict[str, Any]:
    """Run the driver for `count` rows. parts: a folder of finished parts, made as needed; work: an empty folder."""
    tokenizer = mistral_tokenizer.load()
    tokenizer.pad_token = tokenizer.unk_token
    settings = Settings(
        run_name="rows",
        corpus_paths=["rows.jsonl"],
        max_tokens=MAX_TOKENS,
        near_duplicate_threshold=synthetic_parts.THRESHOLD,
        max_rejected_share=0.5,
    )
    cache = PartCache(work / "work", "synthetic")
    synthetic_parts.write_rows(count, parts, cache)
    steps = Steps()
    repeated = survey(steps, count, work)
    watched(steps)
    (work / "data").mkdir()
    began = time.perf_counter()
    with steps.step("rest"):
        report = prepare.Preparation(work / "data", settings, tokenizer, cache).prepare_all(Found())
    elapsed = time.perf_counter() - began
    return {
        "rows": count,
        "elapsed": elapsed,
        "seconds": steps.seconds,
        "peak": steps.peak,
        "report": report,
        "repeated": repeated,
        "digest": digest(work / "data"),
    }


def digest(data: Path) -> str:
    """A hash of all artefacts, without the figures of the report that differ from run to run."""
    report = files.read_json(data / "report.json")
    same = {name: value for name, value in report.items() if name not in ("seconds", "peak_memory_mib")}
    hashed = {name: fact["sha256"] for name, fact in files.hashes(data, data).items() if name != "report.json"}
    return files.digest([hashed, same])


def main() -> None:
    count, parts, work = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    try:
        print(orjson.dumps(measure(count, parts, work)).decode())
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
