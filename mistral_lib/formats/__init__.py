"""Files of every format become rows. Knows bytes and rows, nothing of records or runs.

readers          the reader for a file, and what happens if the content does not fit its name
kinds            the format of a file, by its name and its first bytes, and which files are passed over
rows             one row of a file as it was read, and the options of reading
streams          lines of bounded length, and limits against hostile files
decompression    gzip, bz2, xz, zstd and lz4, up to the place where a file is damaged
encodings        text in any encoding, as UTF-8
archives         the members of a zip or tar one after another, never unpacked to disk, never trusted
cut_zip          the members of a zip that has lost its end
json_rows        rows of JSON: lines, arrays, objects of several lines, wrappers
json_values      the values in a piece of JSON, and repairs of damaged ones
json_containers  which rows a JSON value contains: wrappers, tables as pandas writes them, parallel lists
separated        rows of CSV and TSV
csv_dialect      delimiter, quotes and header of a CSV file, found in its first lines
tables           rows of Parquet and Arrow files
sheets           rows of Excel and OpenDocument sheets
documents        files that are one text: plain text, office documents, web pages, books, mails and, by OCR, pictures
pdf_text         the text of a PDF: a row a page, or rows of at most so many characters
pdf_pages        the text of one page, in reading order
"""
