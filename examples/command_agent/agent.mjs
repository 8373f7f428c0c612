// Asks a question, asks again for the bare answer, and prints it. Needs Node 18 or later, and no agentlightning.
import { readFileSync } from "node:fs";

const { OPENAI_BASE_URL, OPENAI_API_KEY, OPENAI_MODEL, AGL_SAMPLING_PARAMETERS } = process.env;

async function ask(messages) {
  const response = await fetch(`${OPENAI_BASE_URL}/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${OPENAI_API_KEY}` },
    body: JSON.stringify({ ...JSON.parse(AGL_SAMPLING_PARAMETERS), model: OPENAI_MODEL, messages }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()).choices[0].message;
}

const task = JSON.parse(readFileSync(0, "utf-8"));
const messages = [{ role: "user", content: task.question }];
messages.push(await ask(messages));
messages.push({ role: "user", content: "Now the answer alone, please." });
console.log((await ask(messages)).content);
