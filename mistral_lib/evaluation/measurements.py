"""The measurements of an evaluation, on disk batch by batch: a killed evaluation resumes with the next batch and gives the same result.

The files belong to one key, a hash of everything that the numbers depend on. Rules and thresholds are not part of it: a
changed rule is applied to the same measurements.
"""

import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from mistral_lib.model import likelihood
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.run import allocator, files
from mistral_lib.run.progress import bar

KEY = "key.json"


class NotFiniteError(ValueError):
    """A loss is NaN or infinite; the message names the record and what to do."""


class Measurements:
    """A folder of JSON lines, one line per batch: incomplete ones with this key in `folder`, else complete ones in `earlier`, else none."""

    def __init__(self, folder: Path, key: str, earlier: Path | None = None):
        self.folder = folder
        if _key(folder) != key:
            files.fresh_folder(folder)
            if earlier is not None and _key(earlier) == key:
                shutil.copytree(earlier, folder, dirs_exist_ok=True)
            files.write_json(folder / KEY, {"key": key})

    def each(self, name: str, batches: Iterable[Any], work: Callable[[Any], Any], what: str) -> list[Any]:
        """`work(batch)` for every batch, as JSON values; the results of an earlier process are read and not computed again."""
        path, waiting = self.folder / f"{name}.jsonl", list(batches)
        path.touch()  # a headless run says which measurement has begun
        done = files.read_json_lines(path)[: len(waiting)]
        for batch in bar(waiting[len(done) :], what, unit="batch"):
            value = work(batch)
            files.append_json_line(path, value)
            done.append(value)
        return done

    def losses(self, name: str, model: Callable[[], Any], blocks: Any, micro_batch_size: int) -> dict[str, list[RecordLoss]]:
        """`base` and `adapter` losses of every record in packed blocks, each batch measured with the adapter off and on.

        model: returns the model; called only if a batch is not measured yet. Errors: NotFiniteError, before anything of that batch is written.
        """

        def measure(start: int) -> dict[str, list[tuple[Any, ...]]]:
            rows = blocks[start : start + micro_batch_size]
            found = likelihood.paired_batch_losses(model(), rows)
            refuse_not_finite(name, found, model().dtype)
            return {who: [astuple(loss) for loss in losses] for who, losses in found.items()}

        with allocator.keep_freed_memory():
            found = self.each(name, range(0, len(blocks), micro_batch_size), measure, f"{name}, base and adapter")
        return {who: likelihood.sum_by_record([RecordLoss(*row) for row in batch[who]] for batch in found) for who in ("base", "adapter")}


def refuse_not_finite(name: str, found: dict[str, list[RecordLoss]], dtype: Any) -> None:
    """Refuses NaN, which is neither above nor below a threshold and could pass a rule. Errors: NotFiniteError."""
    for who, losses in found.items():
        for loss in losses:
            if not math.isfinite(loss.nats):
                raise NotFiniteError(
                    f"{name}: record {loss.record_id} ({loss.domain}) has a loss of {loss.nats} with the {who} model, computed in {dtype}; "
                    "try dtype=float32 (training then runs again as well), or if it is float32, train with a lower learning_rate"
                )


def _key(folder: Path) -> str:
    try:
        return files.read_json(folder / KEY)["key"]
    except (OSError, ValueError, KeyError):
        return ""
