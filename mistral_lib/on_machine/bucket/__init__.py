"""The run's part of the bucket, and what of a run folder is kept in it.

object_store   reads, writes and verifies objects below the run's prefix
hashed_reader  hashes the very bytes that are uploaded
results_list   results.json: which files of the run folder are in the bucket
run_files      which files of a run folder are whole, and which checkpoints are complete
uploads        one round of uploads of the run folder, and results.json after it
mirror         the rounds in the background, and the last upload
handover       a text with a key, for the computer that watches
restore        the results of an earlier machine, brought back
"""
