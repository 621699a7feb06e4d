// Functions that a model may call, as the reader typed them: OpenAI's form, checked before anything is sent. Pure.

const MOST = 128;
const NAME = /^[A-Za-z0-9_-]{1,64}$/;

/**
 * @param {string} text JSON of a list of `{"type": "function", "function": {"name", "description", "parameters"}}`
 * @returns {{tools: any[], fault: string}} `fault` says where and what is wrong; empty when nothing is
 */
export function readFunctions(text) {
  if (!text.trim()) return { tools: [], fault: "" };
  try {
    const tools = JSON.parse(text);
    const fault = faultOf(tools);
    return { tools: fault ? [] : tools, fault };
  } catch (error) {
    return { tools: [], fault: `This is no JSON: ${error.message}` };
  }
}

function faultOf(tools) {
  if (!Array.isArray(tools)) return "A list is needed: [{…}, {…}].";
  if (tools.length > MOST) return `At most ${MOST} functions are taken; these are ${tools.length}.`;
  for (const [index, tool] of tools.entries()) {
    const fault = faultOfTool(tool, tools.slice(0, index));
    if (fault) return `[${index}]${fault}`;
  }
  return "";
}

function faultOfTool(tool, before) {
  if (tool?.type !== "function") return '.type must be "function".';
  if (!isObject(tool.function)) return ".function is missing: name, description and parameters stand inside it.";
  const { name, parameters } = tool.function;
  if (!NAME.test(name)) return ".function.name must be 1 to 64 letters, digits, _ or -.";
  if (before.some((other) => other.function.name === name)) return `.function.name: ${name} is there already.`;
  if (parameters !== undefined && !isObject(parameters)) return ".function.parameters must be an object, a JSON Schema.";
  return "";
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
