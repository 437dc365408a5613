"""Files of every format become rows. Knows bytes and rows, nothing of records or runs.

readers        file formats: the reader for a file name, and what happens if the content does not fit
archives       the members of a zip or tar one after another, never unpacked to disk, never trusted
streams        decompression, lines of bounded length, and limits against hostile files
rows           one row of a file as it was read, and the options of reading
json_rows      rows of JSON: lines, arrays, single objects, and repairs of damaged ones
tables         rows of CSV, TSV and Parquet
pdf_text       the text of a PDF: a row a page, or rows of at most so many characters
"""
