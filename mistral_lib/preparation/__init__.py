"""The corpus and data stages: from source files to packed splits.

explore           the corpus stage: what is there, before anything is done to it: files, row shapes, domains, lengths, repeats, problems
corpus_index      an index of every row of the corpus: numbers to filter by, and the way back to the row in its file
prepare           the data stage: from raw rows to packed train, validation and test splits, with the fate of every input row
stage_inputs      what each stage reads, as hashes: said once, for the stage that runs and for the audit that looks whether it is still so
trial             the data stage tried on a sample of the rows, in memory: what other parameters would do, before the whole is prepared
row_inspection    A row becomes a record or a rejection, and a few numbers
row_parts         all sources read once, in parts of equal size: each part's records and numbers are on disk before the next begins
worker_processes  who inspects the rows: this process, or for large corpora several, so that checks do not wait for one core
part_cache        what a long stage has finished so far, part by part, so that a killed one goes on where it was
duplicate_search  the search of near-duplicates among the rows; what it found is not searched again after a kill
record_store      records on disk while they are prepared: written once, in batches, and read again in order or by number
columns           columns of numbers: grown part by part without a small object for each part, and put on disk while no step asks for them
token_store       token ids on disk between tokenising and packing: flat files, and a few bytes per window in memory
tokenization      token windows of all kept records, made in parts: each part is on disk before the next begins, and is not made again after a kill
split_writer      the windows of each split in their order, packed into blocks and written: what is trained on, and what is held out
data_report       what became of every input row: the ledger, the rejects, the kept records, and the counts that reconcile
audit             what is claimed against what is on disk: verified, missing, altered or stale, for each artefact, with the reason
"""
