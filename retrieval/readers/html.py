"""HTML, by way of Markdown: the structure is kept, the page around it is not."""

from __future__ import annotations

from dataclasses import replace

from bs4 import BeautifulSoup, Tag
from bs4.dammit import EncodingDetector
from markdownify import MarkdownConverter

from retrieval.documents import Content
from retrieval.readers.markdown import parse_markdown
from retrieval.readers.parsing import parsing
from retrieval.readers.text import clean, decode

# What is on the page but not of the document. Not `form`: ASP.NET and SharePoint wrap the whole page in one.
FURNITURE = [
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "nav",
    "iframe",
    "button",
    "select",
    "datalist",
    "textarea",
]

# Encodings that pages declare and browsers take for larger ones, whose characters such pages have all the same. What
# could be read so far was not UTF-16.
READ_AS = {
    **dict.fromkeys(["iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii"], "cp1252"),
    **dict.fromkeys(["iso-8859-9", "latin5"], "cp1254"),
    **dict.fromkeys(["gb2312", "gbk"], "gb18030"),
    **dict.fromkeys(["shift_jis", "shift-jis", "x-sjis"], "cp932"),
    **dict.fromkeys(["euc-kr", "ks_c_5601-1987"], "cp949"),
    "utf-16": "utf-8",
}


def read_html(data: bytes) -> Content:
    """Title, headings, tables with captions and text; the encoding is the declared or the detected one."""
    with parsing("HTML"):
        declared = EncodingDetector.find_declared_encoding(data, is_html=True)
        soup = BeautifulSoup(decode(data, READ_AS.get(declared or "", declared)), "lxml")
        for tag in soup.find_all(FURNITURE):
            tag.decompose()
        # After the drawings are gone, which have titles of their own.
        title = " ".join(soup.title.get_text(" ").split()) if soup.title else ""
        for caption in soup.find_all("caption"):
            # Above its table, where the converter takes it neither for a row nor drops it.
            table = caption.find_parent("table")
            if table is not None:
                caption.name = "p"
                table.insert_before(caption.extract())
        soup.smooth()  # what stood on both sides of a removed tag is one text again
        markdown = to_markdown(soup.body or soup)
    content = parse_markdown(markdown)
    return replace(content, title=title or content.title)


def to_markdown(html: Tag) -> str:
    """Markdown with `#` headings and pipe tables; links keep their text only."""
    converter = MarkdownConverter(
        heading_style="ATX",
        strip=["a", "img"],
        # Escapes would become part of the text that is embedded and shown.
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        table_infer_header=True,
    )
    lines = clean(converter.convert_soup(html)).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"
