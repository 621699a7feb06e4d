// From an answer's annotations to what is shown: text, and numbers that open the passage. Pure.

/**
 * Pieces of an answer in their order: plain text, or a citation that stands at its place. A `[n]` that the model
 * wrote is replaced by its citation; one for the whole answer stands at the end.
 * @param {string} text
 * @param {any[]} annotations file citations; their offsets count characters, not UTF-16 units
 * @returns {({text: string} | {citation: any})[]}
 */
export function pieces(text, annotations) {
  const characters = Array.from(text);
  const inText = annotations.filter(isMarker).sort((a, b) => a.start_index - b.start_index);
  const atEnd = annotations.filter((annotation) => !isMarker(annotation));
  const found = [];
  let at = 0;
  for (const citation of inText) {
    found.push({ text: characters.slice(at, citation.start_index).join("") }, { citation });
    at = citation.end_index;
  }
  found.push({ text: characters.slice(at).join("") }, ...atEnd.map((citation) => ({ citation })));
  return found.filter((piece) => piece.citation || piece.text);
}

function isMarker(annotation) {
  return annotation.text === `[${annotation.index}]`;
}

const WORD = /[\p{L}\p{N}]+(?:[.,]\p{N}+)*/gu;
const STOP_WORDS = new Set(
  `a an the of in on at to for from by with and or but not no is are was were be been has have had do does did will would can
  could may might must it its this that these those there their they you your we our i he she his her as if than then so what
  which who whom how when where why`.split(/\s+/),
);

/**
 * The words of `said` that `passage` has too, as pieces of the passage.
 * @param {string} passage
 * @param {string} said question and answer
 * @returns {{text: string, isMarked: boolean}[]}
 */
export function marked(passage, said) {
  const wanted = new Set(words(said).filter((word) => word.length > 1 && !STOP_WORDS.has(word)));
  const found = [];
  let at = 0;
  for (const match of passage.matchAll(WORD)) {
    if (!wanted.has(match[0].toLowerCase())) continue;
    if (match.index > at) found.push({ text: passage.slice(at, match.index), isMarked: false });
    found.push({ text: match[0], isMarked: true });
    at = match.index + match[0].length;
  }
  if (at < passage.length) found.push({ text: passage.slice(at), isMarked: false });
  return found;
}

function words(text) {
  return Array.from(text.matchAll(WORD), (match) => match[0].toLowerCase());
}

/**
 * A document's text from its chunks, which overlap. `start` and `end` count characters, not UTF-16 units.
 * @param {{text: string, hamlet: {start: number, end: number}}[]} chunks
 */
export function joined(chunks) {
  let text = "";
  let end = 0;
  for (const chunk of [...chunks].sort((a, b) => a.hamlet.start - b.hamlet.start)) {
    const { start } = chunk.hamlet;
    if (start > end && text) text += "\n\n"; // between chunks stands nothing but space
    text += Array.from(chunk.text).slice(Math.max(0, end - start)).join("");
    end = Math.max(end, chunk.hamlet.end);
  }
  return text;
}

/**
 * A document with one passage picked out.
 * @returns {{before: string, passage: string, after: string} | null} null when the passage is not in it
 */
export function located(document, passage) {
  const at = document.indexOf(passage);
  if (at < 0) return null;
  return { before: document.slice(0, at), passage, after: document.slice(at + passage.length) };
}
