from __future__ import annotations

import io
import json
import random
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import openpyxl
import pptx
import pytest
from openpyxl.styles import Font
from pptx.util import Inches
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, NullObject

from cluster.errors import DataError, HamletError, Unprocessable
from retrieval.client import CollectionsClient
from retrieval.config import retrieval_config
from retrieval.documents import Document
from retrieval.exact_store import ExactStore
from retrieval.ingest import Ingestor
from retrieval.owner import InProcess
from retrieval.readers import read_document
from retrieval.readers.text import clean, decode
from retrieval.service import Collections
from retrieval.vectorizer import HashEmbedder


def read(data: bytes | str, name: str) -> Document:
    return read_document(data.encode() if isinstance(data, str) else data, "id", name)


def spans(document: Document) -> list[tuple[tuple[str, ...], int | None, str]]:
    return [
        (section.headings, section.page, document.text[section.start : section.end].strip())
        for section in document.content.sections
    ]


def make_pdf(pages: list[str], password: str | None = None, owner_only: bool = False) -> bytes:
    """A PDF whose pages show a line each; an empty string is a page without text."""
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        if text:
            stream = DecodedStreamObject()
            stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
            page[NameObject("/Contents")] = writer._add_object(stream)
    writer.add_metadata({"/Title": "Manual"})
    if password:
        writer.encrypt("" if owner_only else password, password, algorithm="AES-256")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def make_docx(body: str, other_parts: Mapping[str, str] | None = None) -> bytes:
    """A Word file with this body in WordprocessingML."""
    schemas = "http://schemas.openxmlformats.org"
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    rels = "application/vnd.openxmlformats-package.relationships+xml"
    office = f"{schemas}/officeDocument/2006/relationships/officeDocument"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{schemas}/package/2006/content-types">'
        f'<Default Extension="rels" ContentType="{rels}"/>'
        f'<Override PartName="/word/document.xml" ContentType="{word}"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{schemas}/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{office}" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{schemas}/wordprocessingml/2006/main">'
        f"<w:body>{body}</w:body></w:document>",
        **(other_parts or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def paragraph(text: str, style: str | None = None) -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def make_pptx() -> bytes:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Budget"
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for row, column, text in [(0, 0, "year"), (0, 1, "euros"), (1, 0, "2024"), (1, 1, "17")]:
        table.cell(row, column).text = text
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    deck.slides.add_slide(deck.slide_layouts[6])
    buffer = io.BytesIO()
    deck.save(buffer)
    return buffer.getvalue()


def make_xlsx() -> bytes:
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    for row in [("item", "euros"), ("lunch", 4.7), (None, None), ("a|b", None)]:
        book.active.append(row)
    book.create_sheet("Empty")
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


HTML = """<!doctype html><html><head><title>Staff page</title><style>p {}</style></head><body>
<nav>Home</nav><h1>Leave</h1><p>27 days_a year.</p>
<table><caption>Codes</caption><tr><th>what</th><th>code</th></tr><tr><td>move</td><td>MV-83</td></tr></table>
<script>alert(1)</script></body></html>"""


def test_markdown_is_kept_as_it_is_and_cut_at_its_headings() -> None:
    text = "Preface.\n\nTitle\n=====\n\n## A `b`\n\nBody.\n\n> # quoted\n\n```\n# comment\n```\n## C\nEnd.\n"
    document = read(text, "a.md")
    assert document.text == text
    assert document.title == "Title"
    assert spans(document) == [
        ((), None, "Preface."),
        (("Title", "A b"), None, "Title\n=====\n\n## A `b`\n\nBody.\n\n> # quoted\n\n```\n# comment\n```"),
        (("Title", "C"), None, "## C\nEnd."),
    ]


def test_front_matter_names_the_document_and_is_in_no_section() -> None:
    matter = '---\ntitle: "Leave: the rules"\ntags:\n  - hr\n# old\ndate: 2024-01-01\n---\n'
    document = read(matter + "Preface.\n\n# Leave\n\n| a |\n|---|\n| b |\n", "a.md")
    assert document.title == "Leave: the rules"
    assert document.text.startswith(matter)
    assert spans(document) == [
        ((), None, "Preface."),
        (("Leave",), None, "# Leave\n\n| a |\n|---|\n| b |"),
    ]
    (table,) = document.content.sections[1].tables
    assert document.text[table.start : table.end] == "| a |\n|---|\n| b |\n"
    assert read("---\ndate: 2024\n---\n# Leave\n\nDays.\n", "a.md").title == "Leave"
    with pytest.raises(Unprocessable, match=r"a\.md: the file has no text"):
        read("---\ntitle: Leave\n---\n", "a.md")


@pytest.mark.parametrize(
    "text", ["---\n\nNote: one.\n\n---\nTwo.", "---\nNote: one\nis prose.\n\n---\nTwo.", "---\na: b\n\nTwo."]
)
def test_a_text_between_rules_is_no_front_matter(text: str) -> None:
    found = spans(read(text, "a.md"))
    assert found[0][2].startswith("---")
    assert found[-1][2].endswith("Two.")


def test_a_heading_over_two_lines_is_one_line() -> None:
    assert read("Leave\npolicy\n======\n\nDays.\n", "a.md").title == "Leave policy"


def test_offsets_hold_with_characters_that_some_take_for_line_ends() -> None:
    document = read("a\u2028b\x0cc\u0085d\n\n# H\n\ntext", "a.md")
    assert spans(document)[1] == (("H",), None, "# H\n\ntext")


def test_html_keeps_the_document_and_drops_the_page_around_it() -> None:
    document = read(HTML, "a.html")
    assert document.title == "Staff page"
    assert "27 days_a year." in document.text
    for gone in ("Home", "alert", "p {}"):
        assert gone not in document.text
    (section,) = document.content.sections
    assert section.headings == ("Leave",)
    (table,) = section.tables
    assert table.caption == "Codes"
    assert table.header.startswith("| what | code |")


def test_the_title_of_a_page_is_one_line() -> None:
    html = "<html><head><title>\n  Leave -\n  Handbook\n</title></head><body><p>x</p></body></html>"
    assert read(html.encode(), "a.html").title == "Leave - Handbook"


def test_a_page_that_is_one_form_is_read_without_its_controls() -> None:
    page = """<html><head><title>Intranet</title></head><body><form id="aspnetForm"><h1>Leave</h1>
    <select><option>All sites</option></select><textarea>Say it</textarea><input value="Go"><p>27 days.</p>
    </form></body></html>"""
    assert read(page, "a.html").text == "# Leave\n\n27 days.\n"


def test_html_under_another_name_is_read_as_html() -> None:
    assert read(HTML, "report.pdf").title == "Staff page"
    assert read(HTML, "page").title == "Staff page"


def test_html_in_the_encoding_that_it_declares() -> None:
    html = '<html><head><meta charset="windows-1251"></head><body><p>Привет</p></body></html>'
    assert "Привет" in read(html.encode("windows-1251"), "a.html").text


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("iso-8859-1", "cp1252", "It costs “20 €” – no more."),
        ("gb2312", "gb18030", "镕基每年有假期"),
        ("shift_jis", "cp932", "①従業員は休暇を取得できます"),
        ("utf-16", "utf-8", "Größe"),
        ("utf-8", "cp1252", "Die Größe der Straße für Fußgänger"),
        ("no-such-encoding", "utf-8", "Größe"),
    ],
)
def test_a_page_that_declares_another_encoding_than_it_has_is_read_as_by_browsers(
    declared: str, encoding: str, text: str
) -> None:
    html = f'<html><head><meta charset="{declared}"></head><body><p>{text}</p></body></html>'
    assert read(html.encode(encoding), "a.html").text.strip() == text


def test_the_mark_of_a_page_goes_before_what_it_declares() -> None:
    html = '<html><head><meta charset="iso-8859-1"></head><body><p>Größe</p></body></html>'
    assert read(html.encode("utf-8-sig"), "a.html").text == "Größe\n"


def test_a_pdf_is_cut_at_its_pages_and_a_bad_page_does_not_lose_the_others() -> None:
    document = read(make_pdf(["First page.", "", "Third page."]), "a.pdf")
    assert document.title == "Manual"
    assert spans(document) == [((), 1, "First page."), ((), 3, "Third page.")]
    assert document.content.warnings == ("page 2 has no text; it may be scanned",)


def test_joined_letters_of_a_pdf_are_apart() -> None:
    assert read(make_pdf([r"\256nance, \257at"]), "a.pdf").text == "finance, flat"


def test_pages_that_a_damaged_pdf_has_lost_are_told() -> None:
    writer = PdfWriter(clone_from=io.BytesIO(make_pdf(["One.", "Two.", "Three."])))
    kids = writer.root_object["/Pages"]["/Kids"]
    writer._objects[kids[1].idnum - 1] = NullObject()
    buffer = io.BytesIO()
    writer.write(buffer)
    document = read(buffer.getvalue(), "a.pdf")
    assert [text for _, _, text in spans(document)] == ["One.", "Three."]
    assert document.content.warnings == ("1 of 3 pages are lost; those behind them are numbered too low",)


def test_a_pdf_by_its_content_whatever_its_name() -> None:
    assert read(make_pdf(["Hello."]), "a.txt").text == "Hello."


@pytest.mark.parametrize("filter_name", ["/JBIG2Decode", "/NoSuchDecode"])
def test_a_page_in_a_form_that_cannot_be_decoded_does_not_lose_the_others(filter_name: str) -> None:
    writer = PdfWriter(clone_from=io.BytesIO(make_pdf(["First page.", "Second page."])))
    contents = writer.pages[1]["/Contents"].get_object()
    assert isinstance(contents, DictionaryObject)
    contents[NameObject("/Filter")] = NameObject(filter_name)
    buffer = io.BytesIO()
    writer.write(buffer)
    document = read(buffer.getvalue(), "a.pdf")
    assert document.text == "First page."
    (warning,) = document.content.warnings
    assert warning.startswith("page 2 cannot be read: ")
    assert "damaged" not in warning


@pytest.mark.parametrize("name", ["a.md", "a.py", "a.html"])
def test_a_text_that_speaks_of_pdfs_is_no_pdf(name: str) -> None:
    assert "%PDF-" in read("# A PDF begins with `%PDF-`.\n", name).text


def test_a_scanned_pdf_says_how_many_pages_have_no_text() -> None:
    with pytest.raises(Unprocessable, match=r"scan\.pdf: no text in 12 pages") as caught:
        read(make_pdf([""] * 12), "scan.pdf")
    assert caught.value.code == "no_text"


def test_a_protected_pdf_is_refused_and_one_with_an_owner_password_only_is_read() -> None:
    with pytest.raises(Unprocessable, match="protected") as caught:
        read(make_pdf(["Secret."], "pw"), "a.pdf")
    assert caught.value.code == "protected_file"
    assert read(make_pdf(["Open."], "pw", owner_only=True), "a.pdf").text == "Open."


def test_a_pdf_that_cannot_be_read_leaves_no_point_and_says_why(tmp_path: Path) -> None:
    client = CollectionsClient(InProcess(Collections(ExactStore())))
    files = {"a.pdf": make_pdf(["Soon scanned."]), "b.pdf": make_pdf(["Secret."], "pw")}
    for pages in (files, files | {"a.pdf": make_pdf([""] * 12)}):
        for name, data in pages.items():
            (tmp_path / name).write_bytes(data)
        report = Ingestor(client, HashEmbedder(), retrieval_config(collection="c")).add_paths([str(tmp_path)])
    assert [skipped.reason for skipped in report.skipped] == [
        "no text in 12 pages; it seems to be scanned: run OCR on it first",
        "the PDF is protected by a password; save a copy without one",
    ]
    assert client.count("c") == 0


def test_a_word_file_keeps_headings_and_tables() -> None:
    cells = "".join(
        "<w:tr>" + "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in row) + "</w:tr>"
        for row in [("what", "code"), ("move", "MV-83")]
    )
    body = paragraph("Leave", "Heading1") + paragraph("Codes") + f"<w:tbl>{cells}</w:tbl>"
    document = read(make_docx(body), "a.docx")
    (section,) = document.content.sections
    assert section.headings == ("Leave",)
    (table,) = section.tables
    assert table.caption == "Codes"
    assert table.header.startswith("| what | code |")
    assert "| move | MV-83 |" in document.text


def test_a_word_file_is_read_without_its_pictures_and_also_where_one_is_missing() -> None:
    schemas = "http://schemas.openxmlformats.org"
    names = {
        "r": "officeDocument/2006/relationships",
        "a": "drawingml/2006/main",
        "pic": "drawingml/2006/picture",
    }
    xmlns = " ".join(f'xmlns:{short}="{schemas}/{name}"' for short, name in names.items())
    drawing = "drawingml/2006/wordprocessingDrawing"
    picture = (
        f'<w:p><w:r><w:drawing><i:inline xmlns:i="{schemas}/{drawing}" {xmlns}><a:graphic><a:graphicData><pic:pic>'
        '<pic:blipFill><a:blip r:embed="r1"/></pic:blipFill></pic:pic></a:graphicData></a:graphic></i:inline>'
        "</w:drawing></w:r></w:p>"
    )
    body = paragraph("Before.") + picture + paragraph("After.")
    relations = (
        f'<Relationships xmlns="{schemas}/package/2006/relationships"><Relationship Id="r1" '
        f'Type="{schemas}/{names["r"]}/image" Target="media/gone.png"/></Relationships>'
    )
    data = make_docx(body, {"word/_rels/document.xml.rels": relations})
    assert read(data, "a.docx").text == "Before.\n\nAfter.\n"


def test_a_presentation_has_its_slides_for_pages() -> None:
    document = read(make_pptx(), "a.pptx")
    (section,) = document.content.sections
    assert (section.headings, section.page) == (("Budget",), 1)
    assert "| year | euros |\n|---|---|\n| 2024 | 17 |" in document.text
    assert document.text.endswith("Say it slowly.")


def test_line_breaks_within_a_paragraph_of_a_slide_part_words() -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Budget\vplan"
    slide.placeholders[1].text = "First\vsecond"
    buffer = io.BytesIO()
    deck.save(buffer)
    assert spans(read(buffer.getvalue(), "a.pptx")) == [
        (("Budget plan",), 1, "Budget\nplan\n\nFirst\nsecond")
    ]


def test_a_table_on_a_slide_is_one_and_text_beside_it_is_not() -> None:
    document = read(make_pptx(), "a.pptx")
    ((table,),) = [section.tables for section in document.content.sections]
    assert document.text[table.start : table.end] == "| year | euros |\n|---|---|\n| 2024 | 17 |"
    assert (table.caption, table.header) == ("", "| year | euros |\n|---|---|")


def test_notes_whose_text_box_was_deleted_do_not_spoil_the_presentation() -> None:
    deck = pptx.Presentation(io.BytesIO(make_pptx()))
    notes = deck.slides[0].notes_slide.notes_text_frame._txBody.getparent()
    notes.getparent().remove(notes)
    buffer = io.BytesIO()
    deck.save(buffer)
    assert read(buffer.getvalue(), "a.pptx").text.endswith("| 2024 | 17 |")


def test_empty_columns_at_the_right_of_a_sheet_are_left_out() -> None:
    book = openpyxl.load_workbook(io.BytesIO(make_xlsx()))
    book.worksheets[0]["ZZ1"].font = Font(bold=True)
    buffer = io.BytesIO()
    book.save(buffer)
    assert read(buffer.getvalue(), "a.xlsx").text == read(make_xlsx(), "a.xlsx").text


def test_one_cell_far_to_the_right_does_not_widen_every_row_of_a_sheet() -> None:
    book = openpyxl.Workbook()
    for number in range(1, 200):
        book.worksheets[0].cell(number, 1, f"row {number}")
    book.worksheets[0].cell(1, 10_000, "far")
    buffer = io.BytesIO()
    book.save(buffer)
    text = read(buffer.getvalue(), "a.xlsx").text
    assert "| far |" in text
    assert "\n| row 199 |" in text
    assert len(text) < 200_000


def test_a_workbook_has_a_section_for_each_sheet() -> None:
    document = read(make_xlsx(), "a.xlsx")
    (section,) = document.content.sections
    assert section.headings == ("Prices",)
    assert document.text == "| item | euros |\n|---|---|\n| lunch | 4.7 |\n| a b |  |"
    (table,) = section.tables
    assert (table.caption, table.header) == ("Prices", "| item | euros |\n|---|---|")


def changed_part(archive: bytes, part: str, change: Callable[[bytes], bytes]) -> bytes:
    """The same archive with one of its parts changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == part else old.read(name))
    return buffer.getvalue()


def test_a_workbook_that_understates_its_size_is_read_whole() -> None:
    understated = changed_part(
        make_xlsx(),
        "xl/worksheets/sheet1.xml",
        lambda sheet: re.sub(rb'<dimension ref="[^"]+"', b'<dimension ref="A1"', sheet),
    )
    assert read(understated, "a.xlsx").text == read(make_xlsx(), "a.xlsx").text


SOUND = {
    "a.pdf": make_pdf(["One.", "Two."]),
    "a.docx": make_docx(paragraph("Leave", "Heading1") + paragraph("Days.")),
    "a.pptx": make_pptx(),
    "a.xlsx": make_xlsx(),
    "a.html": HTML.encode(),
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a.docx", "word/document.xml"),
        ("a.pptx", "ppt/presentation.xml"),
        ("a.pptx", "ppt/slides/slide1.xml"),
        ("a.xlsx", "xl/workbook.xml"),
        ("a.xlsx", "xl/worksheets/sheet1.xml"),
    ],
)
def test_an_office_file_whose_xml_breaks_off_is_damaged(name: str, part: str) -> None:
    with pytest.raises(DataError, match=f"^{name}: the .* file is damaged: ") as caught:
        read(changed_part(SOUND[name], part, lambda xml: xml[:-20]), name)
    assert caught.value.code == "damaged_file"


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 1), (10, 99)],  # of the central directory's entry: the flag of encryption, the way of compression
)
def test_an_archive_whose_parts_cannot_be_unpacked_is_damaged(offset: int, value: int) -> None:
    data = bytearray(SOUND["a.xlsx"])
    for entry in re.finditer(rb"PK\x01\x02", SOUND["a.xlsx"]):
        data[entry.start() + offset] = value
    with pytest.raises(DataError, match=r"a\.xlsx: the Excel file is damaged: "):
        read(bytes(data), "a.xlsx")


def mutant(data: bytes, rng: random.Random) -> bytes:
    """The data cut short, with some bytes changed, or with some left out."""
    place, length = rng.randrange(len(data)), rng.randrange(1, 60)
    changed = bytes(rng.randrange(256) for _ in range(length))
    return data[:place] + rng.choice([b"", changed + data[place + length :], data[place + length :]])


@pytest.mark.parametrize("name", SOUND)
def test_a_damaged_file_of_any_kind_is_told_as_such(name: str) -> None:
    rng = random.Random(7)
    for number in range(12):
        data = SOUND[name]
        # What is damaged inside a sound archive gets past the check of its parts.
        if zipfile.is_zipfile(io.BytesIO(data)) and number % 3:
            parts = zipfile.ZipFile(io.BytesIO(data)).namelist()
            damaged = changed_part(data, rng.choice(parts), lambda part: mutant(part, rng))
        else:
            damaged = mutant(data, rng)
        with suppress(HamletError):
            read(damaged, name)


def test_code_too_deep_for_the_parser_is_read_as_text() -> None:
    text = "x = " + "-" * 20_000 + "1\n"
    assert spans(read(text, "a.py")) == [((), None, text.strip())]


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 400 + "1" + "}" * 400, f"[{'9' * 5000}]"]
)
def test_json_that_python_cannot_read_is_a_damaged_file(text: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        with pytest.raises(DataError, match=r"^a\.json: "):
            read(text, "a.json")
    finally:
        sys.setrecursionlimit(limit)


def test_a_lone_surrogate_that_json_escapes_never_reaches_the_text() -> None:
    text = read(r'{"t": "a \ud835 b"}', "a.json").text
    text.encode()
    assert text.startswith("t: a ")


def test_an_office_file_under_another_name_is_read_as_what_it_is() -> None:
    assert "lunch" in read(make_xlsx(), "a.docx").text


def test_a_csv_is_one_table_with_its_first_line_as_header() -> None:
    document = read("item;euros\nlunch;4.70\n", "a.csv")
    assert document.text == "item;euros\nlunch;4.70\n"
    assert document.content.sections[0].tables[0].header == "item;euros"


def test_empty_lines_above_a_table_are_not_its_header() -> None:
    (section,) = read("\n\nyear,euros\n2024,17\n", "a.csv").content.sections
    assert section.tables[0].header == "year,euros"


def test_what_is_null_in_a_record_is_left_out() -> None:
    assert read('{"a": [null, 1, "x"], "b": null}', "a.json").text == "a: 1, x"


def test_json_records_stay_apart() -> None:
    rows = [{"a": {"b": 1}, "tags": ["x", "y"]}, {"a": None, "list": [{"c": 2}]}]
    expected = ["a.b: 1\ntags: x, y", "list[0].c: 2"]
    for data, name in [(json.dumps(rows), "a.json"), ("\n".join(map(json.dumps, rows)), "a.jsonl")]:
        assert [text for _, _, text in spans(read(data, name))] == expected


def test_json_that_is_not_names_line_and_column() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: not JSON.*line 2, column 7"):
        read('{"a": 1}\n{"b": }', "a.jsonl")


def test_python_is_cut_at_its_definitions() -> None:
    document = read("import os\n\n@cache\ndef f():\n    return 1\n\nclass A:\n    x = 1\n", "a.py")
    assert spans(document) == [
        ((), None, "import os"),
        (("f",), None, "@cache\ndef f():\n    return 1"),
        (("A",), None, "class A:\n    x = 1"),
    ]
    assert spans(read("print 'old'", "a.py")) == [((), None, "print 'old'")]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "shift_jis"]
)
def test_the_encoding_is_detected(encoding: str) -> None:
    text = (
        "こんにちは世界。これは日本語の文章です。" * 4
        if encoding == "shift_jis"
        else "Größe: ein Café für Übung. " * 9
    )
    data = text.encode(encoding)
    if encoding == "utf-16-le":
        data = b"\xff\xfe" + data
    assert decode(data) == text


LANGUAGES = {
    "Danish cp1252": "Hver ansat får syvogtyve feriedage om året. Ansøgningen skal være indsendt før første maj.",
    "Dutch cp1252": "Iedere werknemer krijgt € 20 per dag. Het reünistenweekend is geïnspireerd op België; één cliënt.",
    "English cp1252": "The employee’s leave lapses in March – unless the “office” agrees. It costs £20 at the café.",
    "Finnish cp1252": "Jokainen työntekijä saa kaksikymmentäseitsemän päivää lomaa. Hakemus täytyy lähettää ajoissa.",
    "French cp1252": "L'été dernier, l'élève a reçu une lettre où l'hôtel réclamait des frais. Ça coûte vingt euros.",
    "German cp1252": "Jährlich erhält jeder Angestellte Urlaub. Überstunden können größtenteils abgefeiert werden.",
    "Icelandic cp1252": "Hver starfsmaður fær tuttugu og sjö daga frí á ári. Þetta er íslenska og það er gaman.",
    "Italian cp1252": "La città è più bella perché c'è la libertà. Così potrà andare lì, dove già c'è la qualità.",
    "Norwegian cp1252": "Hver ansatt får tjuesju feriedager i året. Søknaden må være sendt før første mai.",
    "Portuguese cp1252": "Não há informações sobre a organização das férias. Cada funcionário tem direito.",
    "Spanish cp1252": "La compañía ofrecerá vacaciones al año. ¿Cómo se piden? El niño tenía más corazón que razón.",
    "Swedish cp1252": "Varje år får de anställda semester. Öppettiderna är från åtta till fem, på lördagar är.",
    "Croatian cp1250": "Svaki zaposlenik ima dvadeset i sedam dana odmora. Zahtjev treba predati; kuća, čovjek, žena.",
    "Czech cp1250": "Každý zaměstnanec má dvacet sedm dnů dovolené. Žádost musí být podána před prvním květnem.",
    "Hungarian cp1250": "Minden dolgozó szabadságot kap. Kérelmet május elseje előtt kell beadni; gyűjtő, meggyőződés.",
    "Polish cp1250": "Każdy pracownik otrzymuje urlop. Wniosek należy złożyć przed majem; później już nie.",
    "Romanian cp1250": "Fiecare angajat primeşte douăzeci şi şapte de zile de concediu. Cererea trebuie depusă.",
    "Russian cp1251": "Каждый сотрудник получает двадцать семь дней отпуска. Заявление нужно подать до первого мая.",
    "Greek cp1253": "Κάθε εργαζόμενος δικαιούται είκοσι επτά ημέρες άδειας. Η αίτηση πρέπει να υποβληθεί.",
    "Japanese euc_jp": "従業員は毎年二十七日の休暇を取得できます。申請は五月一日までに提出してください。",
    "Chinese gb18030": "每位员工每年有二十七天的假期。申请必须在五月一日之前提交。",
    "Korean cp949": "모든 직원은 매년 이십칠 일의 휴가를 받습니다. 신청서는 오월 일일 이전에 제출해야 합니다.",
}


@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_without_unicode_is_read_as_its_language_writes(language: str, times: int) -> None:
    text = f"{LANGUAGES[language]}\n" * times
    assert decode(text.encode(language.split()[1])) == text


@pytest.mark.parametrize(
    "text",
    [
        "Die Größe für Fußgänger. ",
        "Привет, мир! ",
        "每位员工每年有二十七天的假期。",
        "All right \N{THUMBS UP SIGN} then. ",
    ],
)
def test_a_damaged_byte_costs_a_unicode_text_no_other_character(text: str) -> None:
    text *= 8
    data = text.encode()
    assert decode(data + b"\xe6") == text + "\ufffd"
    assert decode(b"\xff" + data) == "\ufffd" + text


def test_a_damaged_byte_costs_a_page_no_other_character() -> None:
    html = (
        '<html><head><meta charset="shift_jis"></head><body><p>従業員は休暇を取得できます</p></body></html>'
    )
    assert read(html.encode("cp932") + b"\x81", "a.html").text.startswith("従業員は休暇を取得できます\n")


def test_a_page_that_declares_no_encoding_is_read_as_a_text_is() -> None:
    html = f"<html><body><p>{LANGUAGES['Swedish cp1252']}</p></body></html>"
    assert read(html.encode("cp1252"), "a.html").text.strip() == LANGUAGES["Swedish cp1252"]


def test_halves_of_a_surrogate_pair_are_joined_and_a_lone_one_dropped() -> None:
    assert clean("a\ud835\udc00b\ud835c\udc00") == "a\U0001d400bc"


@pytest.mark.parametrize(
    ("data", "name", "error", "words"),
    [
        (b"", "a.md", Unprocessable, "empty"),
        (b" \n ", "a.txt", Unprocessable, "empty"),
        (b"\x00\x01\x02", "a.txt", DataError, "binary"),
        (b"plain words", "a.pdf", DataError, "named .pdf but is not one"),
        (b"plain words", "a.xyz", DataError, "no reader for .xyz"),
        (b"%PDF-1.7 broken", "a.pdf", DataError, "damaged"),
        (b"PK\x03\x04broken", "a.docx", DataError, "damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 99, "a.doc", DataError, "before 2007"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "a.docx",
            Unprocessable,
            "protected",
        ),
        (b"<html><body><script>x</script></body></html>", "a.html", Unprocessable, "no text"),
    ],
)
def test_what_cannot_be_read_says_why_and_names_the_file(
    data: bytes, name: str, error: type[HamletError], words: str
) -> None:
    with pytest.raises(error, match=f"{name}: .*{words}"):
        read(data, name)


def test_an_archive_that_claims_to_hold_terabytes_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.readers.office.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to"):
        read(make_xlsx(), "a.xlsx")


def test_the_title_of_a_word_file_is_what_has_the_style_of_one() -> None:
    body = paragraph("Handover", "Title") + paragraph("Keys", "Heading1") + paragraph("In cabinet 12.")
    document = read(make_docx(body), "a.docx")
    assert document.title == "Handover"
    assert [section.headings for section in document.content.sections] == [("Keys",)]


def test_the_title_of_a_drawing_is_not_that_of_its_page() -> None:
    page = "<html><body><svg><title>Icon</title></svg><h1>Alarm plan</h1><p>Use the north gate.</p></body></html>"
    assert read(page, "a.html").title == "Alarm plan"


def test_a_day_in_a_sheet_is_shown_without_its_midnight() -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["when", "at"])
    book.active.append([datetime(2026, 3, 31), datetime(2026, 3, 31, 9, 30)])
    buffer = io.BytesIO()
    book.save(buffer)
    assert read(buffer.getvalue(), "a.xlsx").text.endswith("| 2026-03-31 | 2026-03-31 09:30:00 |")
