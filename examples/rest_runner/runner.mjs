// A runner in another language: claims rollouts over REST, asks the model, reports. Needs Node 20 or later, no packages.
const [store, name = "node-1"] = process.argv.slice(2);

async function call(verb, path, body) {
  const response = await fetch(`${store}/v1/agl${path}`, {
    method: verb,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${process.env.AGL_TOKEN ?? ""}` },
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${verb} ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

const post = (url, llm, body) =>
  fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${llm.api_key ?? "unused"}` },
    body: JSON.stringify(body ?? {}),
  });

async function ok(response) {
  if (!response.ok) throw new Error(`the gateway answered ${response.status}: ${await response.text()}`);
  return response.json();
}

// The agent: one model call, and a reward that is one comparison.
async function agent(task, llm, base) {
  const messages = [{ role: "user", content: task.question }];
  const reply = await ok(await post(`${base}/chat/completions`, llm, { ...llm.sampling_parameters, model: llm.model, messages }));
  return reply.choices[0].message.content.trim() === task.answer ? 1 : 0;
}

async function reward(rollout_id, attempt_id, value) {
  const { sequence_id } = await call("POST", "/spans/next", { rollout_id, attempt_id });
  const hex = (bytes) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes))).toString("hex");
  const now = Date.now() / 1000;
  await call("POST", "/spans", {
    rollout_id, attempt_id, sequence_id, trace_id: hex(16), span_id: hex(8), parent_id: null,
    name: "agentlightning.annotation",
    status: { status_code: "OK" },
    attributes: { "agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value },
    events: [], links: [], start_time: now, end_time: now, context: null, parent: null,
    resource: { attributes: {}, schema_url: "" },
  });
}

async function run({ rollout_id, input, resources_id, attempt: { attempt_id } }) {
  const { resources } = await call("GET", `/resources/${resources_id}`);
  // The gateway's address with the attempt in it: so it knows whose call it records.
  const base = resources.llm.endpoint.replace(/\/v1$/, `/rollout/${rollout_id}/attempt/${attempt_id}/v1`);
  // The store takes an attempt for lost when nothing is heard of its worker for a minute.
  const beat = () => call("POST", `/workers/${name}`, {}).catch((error) => console.error(`no heartbeat: ${error.message}`));
  const beating = setInterval(beat, 10_000);
  let status = "succeeded";
  try {
    const value = await agent(input, resources.llm, base);
    // The gateway records calls behind the answers: from here on, the store has those of this attempt.
    await ok(await post(base.replace(/\/v1$/, "/flush"), resources.llm));
    await reward(rollout_id, attempt_id, value);
  } catch (error) {
    console.error(`${rollout_id}: ${error.message}`);
    status = "failed";
  }
  try {
    await call("POST", `/rollouts/${rollout_id}/attempts/${attempt_id}`, { status });
  } catch (error) {
    console.error(`${rollout_id}: ${error.message}`); // the attempt was lost meanwhile, and another has begun
  } finally {
    clearInterval(beating);
  }
}

for (let served = 0; ; ) {
  let claimed;
  try {
    claimed = await call("POST", "/queues/rollouts/dequeue", { worker_id: name, wait: 10 });
  } catch (error) {
    if (served === 0) throw error;
    console.log(`${served} rollouts; the store is gone`); // the run has ended
    break;
  }
  for (const rollout of claimed) await run(rollout);
  served += claimed.length;
}
