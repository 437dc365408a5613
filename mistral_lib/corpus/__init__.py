"""Source files become rows, and rows become records.

sources        the files of a run: paths, folders, globs and s3:// addresses, in a fixed order
source_files   the files of one path, each with the name that its rows carry
object_store   objects of s3:// addresses, read as streams
readers        file formats: the reader for a file name, and what happens if the content does not fit
archives       the members of a zip or tar one after another, never unpacked to disk, never trusted
streams        decompression, lines of bounded length, and limits against hostile files
rows           one row of a file as it was read, and the options of reading
json_rows      rows of JSON: lines, arrays, single objects, and repairs of damaged ones
tables         rows of CSV, TSV and Parquet
pdf_text       the text of a PDF: a row a page, or rows of at most so many characters
records        the record, to which every row is mapped or rejected with a reason code
document_keys  which key of a row names its source document
unmapped_rows  keys that were not used and roles that are not known, by name; which `columns` would map a row of unknown shape
exclusions     records that a person excluded: a text file of record ids or sources
demo_corpus    the embedded corpus: documentation of the pinned libraries, in many row shapes
pdf_writer     plain text as a small PDF, for the embedded corpus
"""
