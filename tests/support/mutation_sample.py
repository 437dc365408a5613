"""What the tests of a module let through: a random sample of small faults, each tried in a copy of the tree.

    python -m tests.support.mutation_sample --count 100 --seed 7
    python -m tests.support.mutation_sample --at curation/splits.py:104      every mutant of one line

A mutant changes one place of one module: a comparison or its boundary, + and -, and/or, a number by one, True and False, a condition,
a returned value, or a statement that is left out. Then the module's own tests run, without the slow ones. If none of them fails, the
mutant survived: either no test looks at that place, or the change has no effect (an equivalent mutant, which a person must judge).
The working tree is never changed. Each mutant costs one start of pytest, so a hundred take about half an hour.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support import mutants

ROOT = Path(__file__).resolve().parents[2]
# Module → its test files below tests/ (None: tests/<package>/test_<module>.py). The first nineteen are those of the sample of 2026-11.
MODULES: dict[str, list[str] | None] = {
    "evaluation/prompt_sensitivity": None,
    "training/adapter_check": None,
    "shapes/turns": ["corpus/test_records.py", "corpus/test_field_cases_shapes.py"],
    "tokens/long_records": None,
    "run/params": None,
    "training/stopping": None,
    "training/out_of_memory": None,
    "curation/near_duplicates": None,
    "training/checkpoints": None,
    "preparation/stage_inputs": None,
    "shapes/row_shapes": ["corpus/test_records.py", "corpus/test_field_cases_shapes.py"],
    "curation/split_minimums": ["curation/test_splits.py"],
    "preparation/audit": None,
    "run/folder": None,
    "formats/json_rows": ["formats/test_readers.py", "formats/test_readers_fuzz.py"],
    "tokens/chat_format": None,
    "curation/verified_pairs": ["curation/test_near_duplicates.py"],
    "curation/checks": None,
    "evaluation/paired_difference": None,
    "curation/connected_components": ["curation/test_splits.py"],
    "curation/splits": None,
    "curation/redaction": None,
    "formats/readers": ["formats/test_readers.py", "corpus/test_records.py", "corpus/test_sources.py"],
    "tokens/packing": None,
    "evaluation/verdict": ["evaluation/test_verdict.py", "evaluation/test_enough_data.py"],
}
SLOW = {  # test file → tests that are left out, since each takes seconds: trainings, prepared runs, simulations, large corpora
    "curation/test_near_duplicates.py": ["test_memory_is_bounded_per_record", "test_order_changes_no_component_even_in_large_buckets"],
    "evaluation/test_paired_difference.py": [
        "test_the_likelihood_of_a_known_distribution_is_exact",
        "test_the_interval_contains_the_true_value_in_93_to_97_percent_of_1000_data_sets",
        "test_a_difference_of_the_detectable_size_is_found_about_80_times_in_100",
        "test_many_domains_without_a_difference_rarely_give_a_finding",
    ],
    "tokens/test_packing.py": ["test_packed_logits_equal_separate_ones_only_with_restarting_positions_and_no_mask"],
    "tokens/test_chat_format.py": ["test_the_end_token_of_every_answer_of_real_records_is_graded"],
    "training/test_stopping.py": [
        "test_data_that_teach_nothing_are_refused_each_with_its_own_message",
        "test_an_adapter_that_became_nan_is_neither_saved_nor_complete",
        "test_steps_that_are_not_finite_are_skipped_and_counted_and_too_many_end_the_training",
        "test_the_best_adapter_is_saved_and_patience_ends_the_training",
        "test_a_budget_ends_a_training_verified_and_a_raised_budget_resumes_it",
    ],
    "training/test_out_of_memory.py": [
        "test_out_of_memory_at_step_3_ends_complete_with_the_same_effective_batch",
        "test_a_training_that_does_not_fit_fails_before_the_first_step_and_says_what_to_change",
    ],
    "training/test_checkpoints.py": ["test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so"],
    "preparation/test_audit.py": [
        "test_a_record_left_out_by_hand_afterwards_makes_the_data_stale",
        "test_another_tokenizer_makes_the_data_stale_and_a_missing_base_model_does_not",
        "test_a_stage_is_done_only_if_its_record_says_so",
    ],
    "preparation/test_stage_inputs.py": ["test_a_changed_parameter_and_each_later_stage_alone"],
}
LEFT_OUT = (".git", ".venv", "runs", "models", "corpora", "__pycache__", ".hypothesis", ".ruff_cache", "*.egg-info", "build")
PATIENCE, LEAST = 4, 60  # a test run may take so many times as long as without a mutant, and at least so many seconds


@dataclass(frozen=True)
class Result:
    outcome: str  # killed, survived or timed out
    seconds: float


# They run in a copy: what most tests need is loaded once; for each line of pytest's arguments, a forked process runs the tests.
PRELOADED = """
import hypothesis, numpy, pyarrow.parquet, scipy.stats
import datasets, peft, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
"""
SERVER = """
import os, sys
import pytest
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        code = pytest.main(line.split())
        sys.stdout.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Copy:
    """A copy of the tree in which mutants are tried one after another."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder.with_name(f"{folder.name}-home")
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        self.home.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nbval's alone takes seconds to load
        environment.setdefault("MISTRAL_WORKBOOK_HOME", str(self.home))
        self.server = subprocess.Popen([sys.executable, "-c", PRELOADED + SERVER], cwd=folder, env=environment, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.seconds: dict[str, float] = {}  # module → seconds of its tests without a mutant

    def close(self) -> None:
        self.server.communicate()

    def run(self, module: str, timeout: float | None = None) -> Result:
        """The module's tests in this copy as it is now. Its own compiled file is removed: a change within a second could be missed."""
        for compiled in (self.folder / "mistral_lib" / module).parent.glob(f"__pycache__/{Path(module).name}.*.pyc"):
            compiled.unlink()
        begun, late = time.monotonic(), []
        left_out = [f"--deselect=tests/{path}::{test}" for path, tests in SLOW.items() for test in tests]
        print("-x", "-q", f"--basetemp={self.home / 'pytest'}", *left_out, *test_files(module), file=self.server.stdin, flush=True)
        child = int(self.server.stdout.readline())
        timer = threading.Timer(timeout or 3600, lambda: late.append(os.killpg(child, signal.SIGKILL)))
        timer.start()
        code = int(self.server.stdout.readline())
        timer.cancel()
        outcome = "timed out" if late else "killed" if code else "survived"
        return Result(outcome, time.monotonic() - begun)

    def attempt(self, mutant: mutants.Mutant) -> Result:
        """Write the mutant, run the tests, restore the module. Errors: SystemExit if the tests fail without a mutant."""
        if mutant.module not in self.seconds:
            clean = self.run(mutant.module)
            if clean.outcome != "survived":
                sys.exit(
                    f"{mutant.module}: its tests fail without a mutant; repair them first\n{(self.folder / 'output.txt').read_text()[-3000:]}"
                )
            self.seconds[mutant.module] = clean.seconds
        place = self.folder / "mistral_lib" / f"{mutant.module}.py"
        original = place.read_text()
        try:
            place.write_text(mutants.changed(original, mutant.number))
            return self.run(mutant.module, max(LEAST, PATIENCE * self.seconds[mutant.module]))
        finally:
            place.write_text(original)


def test_files(module: str) -> list[str]:
    """The paths of a module's tests, relative to the tree. Errors: SystemExit if there are none."""
    package, name = module.split("/")
    found = [f"tests/{path}" for path in MODULES.get(module) or [f"{package}/test_{name}.py"]]
    if missing := [path for path in found if not (ROOT / path).is_file()]:
        sys.exit(f"{module}: {', '.join(missing)} does not exist; name the module's tests in MODULES")
    return found


def chosen(arguments: argparse.Namespace) -> list[mutants.Mutant]:
    """The sample, drawn from all mutants of all modules; or every mutant of a line."""
    if arguments.at:
        path, line = arguments.at.split(":")
        module = path.removeprefix("mistral_lib/").removesuffix(".py")
        return [mutant for mutant in of_module(module) if mutant.line == int(line)]
    everything = [mutant for module in arguments.modules for mutant in of_module(module)]
    return random.Random(arguments.seed).sample(everything, min(arguments.count, len(everything)))


def of_module(module: str) -> Iterator[mutants.Mutant]:
    return mutants.of_source(module, (ROOT / "mistral_lib" / f"{module}.py").read_text())


def report(results: Sequence[tuple[mutants.Mutant, Result]]) -> str:
    count = {outcome: sum(result.outcome == outcome for _, result in results) for outcome in ("killed", "timed out", "survived")}
    found = count["killed"] + count["timed out"]
    lines = [f"  {mutant}" for mutant, result in results if result.outcome == "survived"]
    score = f"{found} of {len(results)} found ({found / max(1, len(results)):.0%}): " + ", ".join(
        f"{n} {what}" for what, n in count.items()
    )
    return "\n".join([score, *(["survived, to be judged by hand:"] if lines else []), *lines])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("modules", nargs="*", default=list(MODULES), help="such as curation/splits; default: the 25 of the first sample")
    made.add_argument("--count", type=int, default=100, help="mutants to draw (default 100)")
    made.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    made.add_argument("--processes", type=int, default=1, choices=(1, 2), help="copies of the tree that work at the same time")
    made.add_argument("--at", metavar="FILE:LINE", help="all mutants of one line instead of a sample")
    made.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    return made


def main() -> None:
    arguments = parser().parse_args()
    drawn = chosen(arguments)
    if arguments.list:
        print(*drawn, sep="\n")
        return
    begun, results = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(arguments.processes) as pool:
        free = [Copy(Path(folder) / str(number)) for number in range(arguments.processes)]

        def attempt(mutant: mutants.Mutant) -> tuple[mutants.Mutant, Result]:
            place = free.pop()
            try:
                return mutant, place.attempt(mutant)
            finally:
                free.append(place)

        for number, (mutant, result) in enumerate(pool.map(attempt, drawn), 1):
            results.append((mutant, result))
            print(f"{result.outcome:9} {mutant}  {result.seconds:.0f} s", flush=True)
            if number == 10:
                print(f"about {(time.monotonic() - begun) / 10 * len(drawn) / 60:.0f} minutes in total", flush=True)
        for place in free:
            place.close()
    print(report(results))


if __name__ == "__main__":
    main()
