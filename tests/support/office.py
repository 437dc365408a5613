"""Small office documents, books, mails and sheets, written by hand, the same bytes at every call."""

import io
import zipfile

RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
OPEN_DOCUMENT = "urn:oasis:names:tc:opendocument:xmlns"
XML = '<?xml version="1.0"?>'


def _zipped(members: dict[str, str]) -> bytes:
    """The first member `mimetype`, if there is one, is not compressed."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def _types(part: str, kind: str) -> str:
    defaults = '<Default Extension="xml" ContentType="application/xml"/>'
    relations = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    override = f'<Override PartName="/{part}" ContentType="application/vnd.openxmlformats-officedocument.{kind}.main+xml"/>'
    names = "http://schemas.openxmlformats.org/package/2006/content-types"
    return f'{XML}<Types xmlns="{names}">{defaults}{relations}{override}</Types>'


def _relation(number: int, kind: str, target: str) -> str:
    return f'<Relationship Id="r{number}" Type="{DOCUMENT}/{kind}" Target="{target}"/>'


def _relations(*found: str) -> str:
    return f'{XML}<Relationships xmlns="{RELATIONS}">{"".join(found)}</Relationships>'


def docx(*paragraphs: str) -> bytes:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    return _zipped(
        {
            "[Content_Types].xml": _types("word/document.xml", "wordprocessingml.document"),
            "_rels/.rels": _relations(_relation(1, "officeDocument", "word/document.xml")),
            "word/document.xml": f"{XML}<w:document {names}><w:body>{body}</w:body></w:document>",
        }
    )


def pptx(*slides: str) -> bytes:
    names = (
        'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
        f'xmlns:r="{DOCUMENT}"'
    )
    ids = "".join(f'<p:sldId id="{256 + number}" r:id="r{number}"/>' for number, _ in enumerate(slides, 1))
    members = {
        "[Content_Types].xml": _types("ppt/presentation.xml", "presentationml.presentation"),
        "_rels/.rels": _relations(_relation(1, "officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f"{XML}<p:presentation {names}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": _relations(*(_relation(n, "slide", f"slides/slide{n}.xml") for n, _ in enumerate(slides, 1))),
    }
    shape = '<p:nvSpPr><p:cNvPr id="2" name="t"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/>'
    for number, text in enumerate(slides, 1):
        body = f"<p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody>"
        members[f"ppt/slides/slide{number}.xml"] = (
            f"{XML}<p:sld {names}><p:cSld><p:spTree><p:sp>{shape}{body}</p:sp></p:spTree></p:cSld></p:sld>"
        )
    return _zipped(members)


def epub(*chapters: tuple[str, str]) -> bytes:
    """chapters: (heading, text)."""
    items = "".join(f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n, _ in enumerate(chapters))
    spine = "".join(f'<itemref idref="c{n}"/>' for n, _ in enumerate(chapters))
    title = "<dc:identifier id='i'>x</dc:identifier><dc:title>The book</dc:title><dc:language>en</dc:language>"
    container = '<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>'
    members = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": f'{XML}<container version="1.0" xmlns="{OPEN_DOCUMENT}:container"><rootfiles>{container}</rootfiles></container>',
        "OEBPS/content.opf": f'{XML}<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
        f'<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">{title}</metadata><manifest>{items}</manifest><spine>{spine}</spine></package>',
    }
    for number, (heading, text) in enumerate(chapters):
        body = f"<head><title>{heading}</title></head><body><h1>{heading}</h1><p>{text}</p></body>"
        members[f"OEBPS/c{number}.xhtml"] = f'{XML}<html xmlns="http://www.w3.org/1999/xhtml">{body}</html>'
    return _zipped(members)


def _open_document(kind: str, body: str) -> bytes:
    names = " ".join(f'xmlns:{name}="{OPEN_DOCUMENT}:{name}:1.0"' for name in ("office", "text", "table"))
    entry = f'<manifest:file-entry manifest:full-path="/" manifest:media-type="application/vnd.oasis.opendocument.{kind}"/>'
    return _zipped(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": f"{XML}<office:document-content {names}><office:body>{body}</office:body></office:document-content>",
            "META-INF/manifest.xml": f'{XML}<manifest:manifest xmlns:manifest="{OPEN_DOCUMENT}:manifest:1.0">{entry}</manifest:manifest>',
        }
    )


def odt(*paragraphs: str) -> bytes:
    return _open_document("text", f"<office:text>{''.join(f'<text:p>{text}</text:p>' for text in paragraphs)}</office:text>")


def ods(rows: list[list[str]]) -> bytes:
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    lines = "".join(f"<table:table-row>{''.join(map(cell.format, row))}</table:table-row>" for row in rows)
    return _open_document("spreadsheet", f'<office:spreadsheet><table:table table:name="One">{lines}</table:table></office:spreadsheet>')


def xlsx(*sheets: list[list[object]]) -> bytes:
    """Sheets of rows; a text is stored in its cell, a number as a number."""
    names = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    listed = "".join(f'<sheet name="Sheet{n}" sheetId="{n}" r:id="r{n}"/>' for n, _ in enumerate(sheets, 1))
    members = {
        "[Content_Types].xml": _types("xl/workbook.xml", "spreadsheetml.sheet"),
        "_rels/.rels": _relations(_relation(1, "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'{XML}<workbook {names} xmlns:r="{DOCUMENT}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(*(_relation(n, "worksheet", f"worksheets/sheet{n}.xml") for n, _ in enumerate(sheets, 1))),
    }
    for number, rows in enumerate(sheets, 1):
        lines = "".join(
            f'<row r="{row}">{"".join(_sheet_cell(chr(64 + column) + str(row), cell) for column, cell in enumerate(cells, 1))}</row>'
            for row, cells in enumerate(rows, 1)
        )
        members[f"xl/worksheets/sheet{number}.xml"] = f"{XML}<worksheet {names}><sheetData>{lines}</sheetData></worksheet>"
    return _zipped(members)


def _sheet_cell(place: str, cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return f'<c r="{place}" t="inlineStr"><is><t>{cell}</t></is></c>'
    return f'<c r="{place}"><v>{cell}</v></c>'


def rtf(*paragraphs: str) -> bytes:
    lines = "".join(f"{text}\\par " for text in paragraphs)
    return f"{{\\rtf1\\ansi\\deff0{{\\fonttbl{{\\f0 Arial;}}}}\\f0 {lines}}}".encode()


def eml(subject: str, text: str) -> bytes:
    head = ["From: Someone <someone@example.org>", "To: other@example.org", f"Subject: {subject}", "Date: Mon, 1 Jan 2024 10:00:00 +0000"]
    return "\r\n".join([*head, "Content-Type: text/plain; charset=utf-8", "", text, ""]).encode()


def html(heading: str, text: str) -> bytes:
    page = f"<nav>Menu</nav><h1>{heading}</h1><p>{text}</p><ul><li>one</li><li>two</li></ul>"
    return f"<!doctype html><html><head><title>Page</title><script>var a = 1</script></head><body>{page}</body></html>".encode()
