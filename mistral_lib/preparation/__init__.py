"""The corpus and data stages: from source files to packed splits.

explore             the corpus stage: files, row shapes, domains, lengths, repeats and problems, before anything is changed
survey              what is in each file: found by workers in parts of the corpus, taken together; an index of every row
prepare             the data stage: from raw rows to packed train, validation and test splits
stage_inputs        what each stage reads, as hashes; whether its result is stale
trial               the data stage on a sample of the rows, in memory: what other parameters would do
row_inspection      a row becomes a record or a rejection, and a few numbers
stretch_parts       all rows of the corpus worked on in parts: by this process, by several, or by the workers of a cluster
row_parts           all rows inspected, in parts
part_cache          finished parts of a stage on disk: a killed stage resumes after those that are complete
dropped_duplicates  drops rows that repeat others: exact copies, near-duplicates, repeated patterns
record_store        records and columns of numbers on disk while they are prepared, read in order or by number
token_store         token ids on disk between tokenizing and packing
tokenization        token windows of all kept records, made in parts
prepared            how the records are linked and split, and all else that the steps found: the input of ledger and report
split_writer        the windows of each split, ordered, packed into blocks and written
empty_splits        why a split is empty, and the parameter or the data that would fill it
data_report         the fate of every input row: ledger, rejects, kept records, and the figures of the report
audit               artefacts against their records: verified, missing, altered, stale or older, with the reason
"""
