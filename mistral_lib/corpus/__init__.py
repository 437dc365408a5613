"""Source files become rows, and rows become records.

sources       which files are read: the paths, folders, globs and s3:// addresses that a run names, in an order that is always the same
source_files  the files behind one path: a file, a folder, a glob or an s3:// address expanded, each with the name that its rows carry
object_store  objects behind s3:// addresses, read as streams. Needs the extra `s3fs`; an unreachable server is an error within seconds
readers       file formats: which reader a name asks for, and what happens when the bytes do not keep the name's promise
archives      archives as streams: the members of a zip or tar one after another, never unpacked to disk, never trusted
streams       bytes as streams: transparent decompression, lines of bounded length, and limits that hostile files cannot talk away
rows          one row of a file as it was read, and how it is to be read. Knows nothing of formats, files or records
json_rows     JSON as corpora really hold it: lines, arrays, single objects, and the damage that is found in them
tables        rows of CSV, TSV and Parquet. A cell of CSV is always text; what a damaged stretch swallowed is said with its lines
pdf_text      the text of a PDF: a record a page, or records of a budget of characters. A scan without text is said to be one
records       one record schema: every known row shape is mapped to it, and a row that cannot be mapped says why by a reason code
row_shapes    the shapes that rows come in, each with the keys that tell it and the way it becomes messages or a text
messages      the turns of a conversation, made regular: roles by one name, one message after another, an answer at the end
exclusions    records that a person took out by hand: a plain text file of record ids or sources, which the data stage honours
demo_corpus   the embedded corpus: the docstrings of the pinned libraries, read with `ast` and written as messy corpora come
pdf_writer    plain text as a small PDF, by matplotlib: the embedded corpus needs it for its archive of guides
"""
