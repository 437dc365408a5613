"""The files of a run: its paths, folders, globs, s3:// and hf:// addresses, always in the same order.

Source files are only read, never changed. `optional:PATH` may be missing and is then reported; any other source that is missing or
yields no row stops the run, with all such faults in one message. readers.py reads the files.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from glob import has_magic
from itertools import islice
from typing import Any, BinaryIO

from mistral_lib.corpus import pieces, sections
from mistral_lib.corpus.pieces import WHOLE, Piece
from mistral_lib.corpus.records import record_or_reason
from mistral_lib.corpus.source_files import Expansion, SourceFile, clean, place_of, shown_place
from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import LIMITS, Budget, ExhaustedError, Limits
from mistral_lib.run import files, parameter_faults, paths
from mistral_lib.shapes.row_shapes import COLUMNS

OPTIONAL = "optional:"
ADVICE = "expected a file, folder, glob, s3://bucket/prefix or hf://datasets/owner/name (relative paths start at the workbook's folder): correct it, take it out"


class SourceError(ValueError):
    """Sources cannot be used; the message names each of them, its parameter and what to do."""


@dataclass(slots=True)
class Found:
    files: list[SourceFile] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # a sentence for each optional source that does not exist or has no rows
    faults: list[str] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)  # files that are passed over, by kind


def of_settings(settings: Any) -> list[SourceFile]:
    """Corpus files first, operatives last. Errors: SourceError."""
    return resolve(settings).files


def of_retention(settings: Any) -> list[SourceFile]:
    """The files of the retention set; none if the run has no retention_paths. Errors: SourceError if a path yields nothing."""
    return find(settings.retention_paths, "retention")


def resolve(settings: Any) -> Found:
    """The files of a run and its absent optional sources, looked up once. Errors: SourceError with every fault of both parameters."""
    ocr = getattr(settings, "ocr", False)
    faults = [
        f"columns: {parameter_faults.unknown('target', target, COLUMNS)}"
        for target in getattr(settings, "columns", {})
        if target not in COLUMNS
    ]
    corpus = _search(settings.corpus_paths, "corpus", ocr)
    operatives = _search(settings.operatives_paths, "operatives", ocr)
    faults += corpus.faults + operatives.faults
    if not corpus.files and not faults:
        reasons = "; ".join(corpus.absent) or "the list is empty"
        faults.append(f"corpus_paths: nothing to read ({reasons}): give at least one source that is there")
    if faults:
        raise SourceError("\n".join(faults))
    in_corpus = {file.place for file in corpus.files}  # a file named in both is corpus, and is read once
    found = corpus.files + [file for file in operatives.files if file.place not in in_corpus]
    found = _in_sections(_with_distinct_names(found), settings)
    return Found(found, corpus.absent + operatives.absent, left_out=corpus.left_out + operatives.left_out)


def _in_sections(found: list[SourceFile], settings: Any) -> list[SourceFile]:
    """The files, marked to be read section by section if all that they have is one or two texts."""
    readable = 0
    for file in found:
        readable += _readable(file, file.version, settings.ocr)
        if readable >= sections.FEWEST_ROWS:
            return found
    records = [record for file in found for row in rows_of(file, settings) if (record := record_or_reason(row, settings)[0])]
    texts = [record.text for record in records if record.text is not None]
    return [replace(file, sections=sections.characters(texts)) for file in found] if texts and len(texts) == len(records) else found


def find(paths: Iterable[str], origin: str) -> list[SourceFile]:
    """The files behind the paths of `<origin>_paths`, in a fixed order. Errors: SourceError that names each path which yields nothing."""
    found = _search(paths, origin)
    if found.faults:
        raise SourceError("\n".join(found.faults))
    return _with_distinct_names(found.files)


def _search(paths: Iterable[str], origin: str, ocr: bool = False) -> Found:
    result, by_place, key = Found(), {}, f"{origin}_paths"
    for given in paths:
        source, passed = given.removeprefix(OPTIONAL), Counter()
        try:
            expanded = list(Expansion(origin, passed, ocr).files(source))
            why = _why_nothing(source, expanded, passed, ocr)
            result.left_out += passed
        except (OSError, ValueError) as error:  # a folder that may not be listed, a store that does not answer, demo:nonsense
            expanded, why = [], str(error)
        if not why:
            for file in expanded:
                by_place.setdefault(file.place, file)
        elif given.startswith(OPTIONAL):
            result.absent.append(f"{key}: {source} is optional and was left out: {why}")
        else:
            result.faults.append(
                f"{key}: {source!r} → {shown_place(source)}: {why}; {ADVICE}, or write '{OPTIONAL}{source}' if the run may do without it"
            )
    result.files = sorted(by_place.values(), key=lambda file: (_stem(file.name), file.name, file.place))
    return result


def _stem(name: str) -> str:
    """The name without its extension: sorted by it, `faq.jsonl` is before `faq (copy).jsonl`, which is then said to repeat a file."""
    return name.rpartition(".")[0] or name


def _why_nothing(source: str, expanded: list[SourceFile], passed: Counter, ocr: bool) -> str:
    if not expanded and passed:
        return f"nothing in it is read; left out: {', '.join(f'{count} {kind}' for kind, count in sorted(passed.items()))}"
    if not expanded:
        there = not source.startswith(("s3://", "hf://")) and not has_magic(source) and place_of(source).exists()
        return "no file in it (hidden ones do not count)" if there else "no such file, or nothing in it"
    if not any(_readable(file, file.version, ocr) for file in expanded):
        return f"no row could be read from it ({next(rows(expanded[0], ocr=ocr)).problem} in {expanded[0].name})"
    return ""


@lru_cache(maxsize=4096)
def _readable(file: SourceFile, version: Any, ocr: bool) -> int:
    """How many rows can be read, of more than FEWEST_ROWS these: usually the first ones can. version: for the cache, changes with the content."""
    return sum(1 for _ in islice((row for row in rows(file, salvage=True, ocr=ocr) if row.problem is None), sections.FEWEST_ROWS))


def _with_distinct_names(found: list[SourceFile]) -> list[SourceFile]:
    """Files of equal names get as much of their path in front as makes the names different, since sources must be unique."""
    parts = [clean(file.place.replace("s3://", "s3/", 1).strip("/")).split("/") for file in found]
    names, depths = [file.name for file in found], [file.name.count("/") + 1 for file in found]
    while equal := {name for name, count in Counter(names).items() if count > 1}:
        for number, name in enumerate(names):
            if name in equal:
                depths[number] += 1
                own = "/".join(parts[number][-depths[number] :])
                names[number] = own if depths[number] <= len(parts[number]) else f"{own}~{number}"
    return [replace(file, name=name) for file, name in zip(found, names, strict=True)]


def inputs(source_files: Iterable[SourceFile]) -> dict[str, str]:
    """`{origin/name: hash}`: what a stage that reads these files depends on. Errors: SourceError if a file cannot be read.

    The hash is the SHA-256 of the content; for an object in a store, of its ETag, size and name, since its content is not downloaded.
    """
    return {f"{file.origin}/{file.name}": _hash(file) for file in source_files}


def _hash(file: SourceFile) -> str:
    if file.remote:
        return files.digest([file.remote.etag, file.remote.size, file.remote.url])
    try:
        return files.sha256(file.path)
    except OSError as error:
        raise _unreadable(file, error) from None


def rows(
    file: SourceFile, salvage: bool = False, pdf_characters: int = 0, limits: Limits = LIMITS, ocr: bool = False, piece: Piece = WHOLE
) -> Iterator[Row]:
    """Every row of one file, at least one, or of a piece of it. A row that cannot be read has a `problem`; the rows after it are still read.

    salvage: separate objects glued on one line. pdf_characters: characters per record of a PDF, 0 for one record a page.
    Errors: SourceError for faults of the machine, not of the content: a permission, a disk, a network.
    """
    try:
        with opened(file) as stream:
            found = pieces.rows(stream, file.name, Reading(salvage, pdf_characters, limits, ocr), Budget(limits, file.size), piece)
            yield from sections.divided(found, file.sections) if file.sections else found
    except ExhaustedError as exhausted:  # the rows before are kept, the rest of the file is not read
        yield Row(file.name, None, exhausted.code)


@contextmanager
def opened(file: SourceFile) -> Iterator[BinaryIO]:
    """The bytes of a file. Errors: SourceError for faults of the machine while they are read."""
    try:
        with file.open() as stream:
            yield stream
    except OSError as error:
        raise _unreadable(file, error) from None


def rows_of(file: SourceFile, settings: Any, piece: Piece = WHOLE) -> Iterator[Row]:
    """Every row of one file or of a piece of it, read by the parameters of a run. Errors: SourceError."""
    return rows(file, settings.salvage, settings.pdf_characters, ocr=settings.ocr, piece=piece)


def _unreadable(file: SourceFile, error: OSError) -> SourceError:
    where = file.remote.url if file.remote else paths.short(file.path)
    return SourceError(
        f"{where} ({file.origin}_paths): cannot be read: {error.strerror or error}; nothing was lost, but the run cannot continue without it: "
        "make it readable, or take it out of the list"
    )
