"""HTML, by way of Markdown: the structure is kept, the page around it is not."""

from __future__ import annotations

from dataclasses import replace

from bs4 import BeautifulSoup
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


def read_html(data: bytes) -> Content:
    """Title, headings, tables with captions and text; the encoding is the declared or the detected one."""
    with parsing("HTML"):
        is_declared = EncodingDetector.find_declared_encoding(data, is_html=True) is not None
        soup = BeautifulSoup(data if is_declared else decode(data), "lxml")
        for tag in soup.find_all(FURNITURE):
            tag.decompose()
        # After the drawings are gone, which have titles of their own.
        title = soup.title.get_text(" ", strip=True) if soup.title else ""
        for caption in soup.find_all("caption"):
            # Above its table, where the converter takes it neither for a row nor drops it.
            table = caption.find_parent("table")
            if table is not None:
                caption.name = "p"
                table.insert_before(caption.extract())
        markdown = to_markdown(str(soup.body or soup))
    content = parse_markdown(markdown)
    return replace(content, title=title or content.title)


def to_markdown(html: str) -> str:
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
    lines = clean(converter.convert(html)).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"
