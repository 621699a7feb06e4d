// A request as a command or a program that anybody can run. Pure.

/**
 * @param {any} body of the request
 * @param {string} base address of the API, up to /v1
 * @param {boolean} hasKey whether the service wants one; the key itself is never copied
 */
export function asCurl(body, base, hasKey) {
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $HAMLET_API_KEY"` : "";
  const json = JSON.stringify({ ...body, stream: undefined, stream_options: undefined }, null, 2).replaceAll("'", "'\\''");
  return `curl -s ${base}/chat/completions \\\n  -H "Content-Type: application/json"${key} \\\n  -d '${json}'\n`;
}

export function asPython(body, base, hasKey) {
  const { hamlet, stream, stream_options, ...known } = body;
  const fields = Object.entries(known).map(([name, value]) => `    ${name}=${pythonLiteral(value, 1)},\n`);
  if (hamlet) fields.push(`    extra_body={"hamlet": ${pythonLiteral(hamlet, 1)}},\n`);
  const key = hasKey ? `os.environ["HAMLET_API_KEY"]` : `"unused"`;
  return (
    `${hasKey ? "import os\n\n" : ""}import openai\n\n` +
    `client = openai.OpenAI(base_url=${pythonLiteral(base, 0)}, api_key=${key})\n` +
    `answer = client.chat.completions.create(\n${fields.join("")})\n` +
    `message = answer.choices[0].message\nprint(message.tool_calls or message.content)\n`
  );
}

/** A JSON value as Python. Strings of JSON are strings of Python, but for lone surrogates, which requests refuse. */
function pythonLiteral(value, depth) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => pythonLiteral(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonLiteral(item, depth + 1)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = `${open}${items.join(", ")}${close}`;
  if (line.length + depth * 4 <= 90) return line;
  const pad = "    ".repeat(depth + 1);
  return `${open}\n${items.map((item) => `${pad}${item},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
