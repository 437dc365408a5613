"""The source files of a run, and how their rows become records.

sources         the files of a run: paths, folders, globs and s3:// addresses, in a fixed order
stretches       the corpus in stretches that several workers read
pieces          pieces of a large file, each read by itself
zstd_frames     where the frames of a Zstandard file begin
source_files    the files of one path, each with the name that its rows carry
hub_datasets    data sets of the hub, downloaded by the library datasets
object_store    objects of s3:// addresses, read as streams
shared_storage  a bucket that all machines of a cluster reach, for finished parts of a stage
sections        the sections of a corpus of one or two texts, a row each
records         the record, to which every row is mapped or rejected with a reason code
file_domains    the domain of a row that names none, from the name of its file
document_keys   which key of a row names its source document
unmapped_rows   keys that were not used and roles that are not known, by name; which `columns` would map a row of unknown shape
exclusions      records that a person excluded: a text file of record ids or sources
demo_corpus     the embedded corpus: documentation of the pinned libraries, in many row shapes
pdf_writer      plain text as a small PDF, for the embedded corpus
"""
