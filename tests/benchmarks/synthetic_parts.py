"""What workers hand over in the data stage, made with numpy instead of from files: finished parts of rows, and token windows.

Of a hundred rows, ten are near-duplicates (five of a row near by, five of one far before), two are exact copies and one is rejected.
Ten rows are a document, and copies link seven documents. There are eight large domains, one of labels and one of plain documents, and a
small one, which is in one split only. Signatures are drawn, not computed: copies agree in about half of their bands and in all but a few
bits of their sketch, and four neighbours share one band although their texts differ. Texts are real, as near-duplicates are verified on
them. All of it depends on the row's number alone. No prompts share a template, and no record is cut.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from mistral_lib.corpus.stretches import Plan, Stretch
from mistral_lib.curation import minhash
from mistral_lib.curation.minhash import mix
from mistral_lib.curation.similarity import GRAM
from mistral_lib.preparation import part_cache, token_store
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import BATCH, PART, SCHEMA, new_file
from mistral_lib.preparation.row_inspection import COLUMNS, COUNTED, DOCUMENT, KEPT, REJECTED
from mistral_lib.preparation.stretch_parts import PLAN, name_of
from mistral_lib.preparation.survey import corpus_index, length_sample, row_facts

BLOCK, NEAR, EXACT, REJECT = (
    100,
    10,
    12,
    99,
)  # the first places of a block are near-duplicates, the next ones exact copies, the last is rejected
NEARBY, FAR = np.uint64(20), np.uint64(30)  # where the rows begin that are copied near by, and those that are copied far after
DOCUMENT_ROWS = np.uint64(10)
DOMAINS = [*(f"domain{number}" for number in range(8)), "small"]
DOCUMENTS, LABELS, FEW = 6, 7, 8  # the domains of plain documents, of labels, and of the FIRST rows
FIRST = 40
WORDS = {"prompt": 20, "answer": 40}
SALT = {
    name: np.uint64(place << 48) for place, name in enumerate(("key", "prompt", "answer", "label", "group", "band", "sketch", "copy"), 1)
}
LABEL_WORDS = ("positive", "negative", "neutral", "mixed")
THRESHOLD = 0.8
VOCABULARY = [a + b + c for a in "bdfklmnprst" for b in "aeiou" for c in "lmnrst"]
PHRASES = 1000
TOKENS, LEAST = 40, 16  # of a window: the mean and the least


class Rows:
    """The rows with these numbers, uint64."""

    def __init__(self, numbers: np.ndarray) -> None:
        block, place = numbers // BLOCK, numbers % BLOCK
        far = place % 2 == 1
        chosen = np.where(far, block // 2 * BLOCK + FAR, block * BLOCK + NEARBY) + mix(numbers ^ SALT["copy"]) % DOCUMENT_ROWS
        self.numbers, self.near, self.rejected = numbers, place < NEAR, place == REJECT
        self.source = np.where(place < EXACT, chosen, numbers)  # the row that each one repeats
        self.variant = np.where(self.near, numbers, self.source)  # equal for equal texts
        self.domain = np.where(self.source < FIRST, FEW, self.source // BLOCK % FEW).astype(np.int32)
        self.document, self.labeled = self.domain == DOCUMENTS, self.domain == LABELS
        self.label = mix(self.source ^ SALT["label"]) % len(LABEL_WORDS)


def columns(rows: Rows) -> dict[str, np.ndarray]:
    """As RowColumns has them."""
    key = mix(rows.variant ^ SALT["key"])
    answer = np.where(rows.labeled, mix(rows.label ^ SALT["label"]), mix(rows.variant ^ SALT["answer"]))
    prompt = np.where(rows.document, mix(SALT["prompt"][None]), mix(rows.variant ^ SALT["prompt"]))
    found = {
        "key": key, "context": np.where(rows.document, DOCUMENT, 0), "prompt": prompt, "prompt_words": np.where(rows.document, 0, WORDS["prompt"]),
        "answer": answer, "answer_words": np.where(rows.labeled, 1, WORDS["answer"]), "label": answer, "group": mix(rows.numbers // DOCUMENT_ROWS ^ SALT["group"]),
        "document_key": np.ones(len(key)), "skeleton": key, "domain": np.where(rows.rejected, -1, rows.domain),
        "origin": rows.numbers // BLOCK % 50 == 49, "fate": np.where(rows.rejected, REJECTED, KEPT), "reason": np.where(rows.rejected, 0, -1),
        "lines": np.ones(len(key)),
    }  # fmt: skip
    return {name: found[name].astype(kind) for name, kind in COLUMNS.items()}


def signatures(rows: Rows, found: dict[str, np.ndarray], side: str) -> dict[str, np.ndarray]:
    """As `minhash.Signatures` has them. found: the columns."""
    mapped = ~rows.rejected
    words = found[f"{side}_words"]
    long = mapped & (words >= GRAM)
    source, number, near = (values[long] for values in (rows.source ^ SALT[side], rows.numbers ^ SALT[side], rows.near))
    return {
        "exact": found[side][mapped], "words": words[mapped],
        "bands": _bands(source, number, near), "sketch": _sketch(source, number, near),
    }  # fmt: skip


def _bands(source: np.ndarray, number: np.ndarray, near: np.ndarray) -> np.ndarray:
    """uint64 (texts, bands): a near-duplicate has about half of the bands of its source."""
    band = np.arange(minhash.bands_and_rows(THRESHOLD)[0], dtype=np.uint64) << np.uint64(52)
    own = mix((number ^ SALT["band"])[:, None] ^ band)
    keys = mix((source ^ SALT["band"])[:, None] ^ band)
    keys = np.where(near[:, None] & (own % np.uint64(2) == 0), own, keys)
    keys[:, 0] = mix(source // np.uint64(4))  # neighbours are candidates that the sketch refuses
    return keys


def _sketch(source: np.ndarray, number: np.ndarray, near: np.ndarray) -> np.ndarray:
    """uint64 (texts, PERMUTATIONS / 64): of a near-duplicate, one bit in sixteen differs."""
    word = np.arange(minhash.PERMUTATIONS // 64, dtype=np.uint64) << np.uint64(52)
    differing = mix((number ^ SALT["sketch"])[:, None] ^ word)
    for _ in range(3):
        differing &= mix(differing ^ (number[:, None] ^ word))
    return mix((source ^ SALT["sketch"])[:, None] ^ word) ^ np.where(near[:, None], differing, np.uint64(0))


def _phrases(words: int, seed: int) -> list[str]:
    chosen = np.random.default_rng(seed).integers(0, len(VOCABULARY), (PHRASES, words))
    return [" ".join(VOCABULARY[word] for word in row) for row in chosen.tolist()]


OPENINGS, ENDINGS = ({side: _phrases(count // 2 - 1, seed + count) for side, count in WORDS.items()} for seed in (0, 1))


def _text(side: str, source: int, variant: int) -> str:
    """WORDS[side] words. No two sources have the same; variants of one differ in the last word."""
    return f"{OPENINGS[side][source % PHRASES]} {source} {ENDINGS[side][source // PHRASES % PHRASES]} {variant}"


def _stored(rows: Rows) -> pa.RecordBatch:
    """The records as batch_of stores them."""
    named, messages, texts = [], [], []
    facts = (rows.numbers, rows.source, rows.variant, rows.rejected, rows.document, rows.labeled, rows.label, rows.domain)
    for number, source, variant, rejected, document, labeled, label, domain in zip(*(one.tolist() for one in facts), strict=True):
        shape = None if rejected else "document" if document else "question and answer"
        named.append(
            (
                f"rows.jsonl:{number + 1}",
                None if rejected else DOMAINS[domain],
                None if rejected else f"document {number // int(DOCUMENT_ROWS)}",
                shape,
            )
        )
        answer = LABEL_WORDS[label] if labeled else _text("answer", source, variant)
        chat = f'[{{"role":"user","content":"{_text("prompt", source, variant)}"}},{{"role":"assistant","content":"{answer}"}}]'
        messages.append(None if rejected or document else chat.encode())
        texts.append(answer if document and not rejected else None)
    return pa.record_batch([*map(list, zip(*named, strict=True)), messages, texts, [None] * len(texts)], schema=SCHEMA)


def write_part(cache: PartCache, part: int, count: int) -> None:
    """A finished part of `count` rows, unless it is there: a stretch of its own."""
    if (cache.folder / name_of(part, 0)).exists():
        return
    numbers = np.arange(part * PART, part * PART + count, dtype=np.uint64)
    rows = Rows(numbers)
    arrays = columns(rows)
    signed = {f"signed-{side}-{name}": values for side in WORDS for name, values in signatures(rows, arrays, side).items()}
    counts = {name: {} for name in COUNTED}
    facts = {
        "rows": count,
        "ended": True,
        "domains": DOMAINS,
        "reasons": ["answer_too_short"],
        "counts": counts,
    }
    with cache.new_part(name_of(part, 0)) as folder:
        with new_file(folder) as writer:
            for start in range(0, count, BATCH):
                writer.write_batch(_stored(Rows(numbers[start : start + BATCH])))
        part_cache.write(folder, facts, {**arrays, **signed})


def write_full_parts(count: int, shared: Path) -> PartCache:
    """The full parts of `count` rows, which several sizes use."""
    full = PartCache(shared, "full parts")
    for part in range(count // PART):
        write_part(full, part, PART)
    return full


def write_rows(count: int, shared: Path, cache: PartCache) -> None:
    """All finished parts of `count` rows. shared: the folder of the full ones."""
    full = write_full_parts(count, shared)
    for part in range(count // PART):
        (cache.folder / name_of(part, 0)).symlink_to(full.folder / name_of(part, 0))
    write_part(cache, count // PART, count % PART)
    with cache.new_part(PLAN) as folder:
        part_cache.write(folder, Plan([Stretch(())] * (count // PART + 1), []).facts(), {})


def survey_part(part: int, count: int, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and arrays of a part of the corpus stage; its index and its lengths are written into the folder."""
    rows = Rows(np.arange(part * PART, part * PART + count, dtype=np.uint64))
    key = mix(rows.variant ^ SALT["key"])[~rows.rejected]
    ids = iter([f"{one:016x}" for one in key.tolist()])
    domains = ["" if rejected else DOMAINS[domain] for rejected, domain in zip(rows.rejected.tolist(), rows.domain.tolist(), strict=True)]
    index = [
        (
            f"rows.jsonl:{number + 1}",
            next(ids) if domain else "",
            300,
            "rows.jsonl",
            domain,
            "chat" if domain else "",
            "" if domain else "no",
        )
        for number, domain in zip(rows.numbers.tolist(), domains, strict=True)
    ]
    row_facts.write_table(folder / row_facts.INDEX, pa.table([*map(list, zip(*index, strict=True))], schema=corpus_index.SCHEMA))
    row_facts.write_table(folder / row_facts.LENGTHS, length_sample.SCHEMA.empty_table())
    facts = row_facts.FileFacts("rows.jsonl", count, len(key), domains=Counter(domains), shapes=Counter(chat=len(key)))
    return orjson.loads(orjson.dumps({"files": [facts]})), {"key": key}


def token_parts(
    kept: np.ndarray, key: np.ndarray, cache: PartCache
) -> Iterator[tuple[Path, dict[str, np.ndarray], np.ndarray, dict[str, Any]]]:
    """What tokenization.parts yields: a window of TOKENS tokens on average for each kept record. key: of all rows."""
    for start in range(0, len(kept), PART):
        numbers = kept[start : start + PART]
        length = LEAST + (key[numbers] % np.uint64(2 * (TOKENS - LEAST))).astype(np.int64)
        ids = np.arange(length.sum(), dtype=np.int32) % 30_000 + 100
        graded = np.arange(len(ids)) % 3 > 0
        folder = cache.folder / f"tokens-{start // PART:05}"
        folder.mkdir()
        written = token_store.write(folder, [[(numbers, length, ids, graded)]])
        yield folder, written, np.empty((2, 0), np.int64), {}
