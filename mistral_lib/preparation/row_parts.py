"""All rows inspected, in parts: records and numbers of each. What a part has is restored in the order of the corpus."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mistral_lib.corpus.exclusions import Exclusions
from mistral_lib.corpus.sources import SourceFile
from mistral_lib.curation.minhash import Signatures
from mistral_lib.engine.job import Engine, Job
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import new_file
from mistral_lib.preparation.row_inspection import COLUMNS, ORIGINS, SIDES, InspectedBatch, Inspector
from mistral_lib.preparation.stretch_parts import Begin, Made, PartRows, Reading
from mistral_lib.run.settings import Settings

SIGNED = ("exact", "words", "bands", "sketch")


def parts(
    files: Sequence[SourceFile], settings: Settings, excluded: Exclusions, cache: PartCache, engine: Engine
) -> Iterator[tuple[str, InspectedBatch]]:
    """(name, everything but the records) of every part, in order; parts that are not finished are made. Errors: SourceError."""
    begin = Job("mistral_lib.preparation.row_parts:inspection", (settings, excluded))
    for name, facts, arrays in Reading("data", files, settings, begin).parts(cache, engine):
        yield name, _restored(facts, arrays)


def inspection(settings: Settings, excluded: Exclusions) -> Begin:
    """The work on the rows of a part."""
    inspector = Inspector(settings, excluded)
    return lambda _: partial(_inspected, inspector)


def _inspected(inspector: Inspector, rows: PartRows, folder: Path) -> Made:
    """Write the records of a part; what else it has."""
    found: list[InspectedBatch] = []
    with new_file(folder) as writer:
        for batch in rows:
            inspected = inspector.inspect([(ORIGINS.index(file.origin), row) for file, row in batch])
            writer.write_batch(inspected.stored)
            inspected.stored = None
            found.append(inspected)
    part = InspectedBatch.concatenate(found)
    signed = {f"signed-{side}-{name}": getattr(one, name) for side, one in (part.signed or {}).items() for name in SIGNED}
    return {"domains": part.domains, "reasons": part.reasons, "counts": part.counts}, {**part.columns, **signed}


def _restored(facts: dict[str, Any], arrays: dict[str, Any]) -> InspectedBatch:
    sides = [side for side in SIDES if f"signed-{side}-exact" in arrays]
    signed = {side: Signatures(**{name: arrays[f"signed-{side}-{name}"] for name in SIGNED}) for side in sides} or None
    return InspectedBatch({name: arrays[name] for name in COLUMNS}, facts["domains"], facts["reasons"], facts["counts"], signed)
