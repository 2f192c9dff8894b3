// Subscribes to runs with their streams, with the official client, and prints what each iteration gave.
//
// Input: JSON on stdin, a list of {name, url, runId, chunks}. One ends by itself, or is left a while after the run was seen to
// be over and so many chunks came.
// Output: {name, events, end}, a line of JSON each; an event is ["run", status] or [key, chunk].

import { ApiClient } from "@trigger.dev/core/v3";

const KEY = process.env.WITNESS_KEY;
const LINGER_MS = Number(process.env.WITNESS_LINGER_MS);

async function subscribe({ url, runId, chunks }) {
  const events = [];
  let count = 0;
  let over = false;
  let leave;
  const left = new Promise((resolve) => (leave = () => resolve({ left: true })));
  const iterator = new ApiClient(url, KEY).subscribeToRun(runId).withStreams()[Symbol.asyncIterator]();
  for (;;) {
    const next = await Promise.race([iterator.next(), left]);
    if (next.left) return { events, end: "left" };
    if (next.done) return { events, end: "over" };
    const { type, run, chunk } = next.value;
    events.push(type === "run" ? ["run", run.status] : [type, chunk]);
    if (type === "run") over = over || run.finishedAt !== undefined;
    else count += 1;
    if (over && count === chunks) setTimeout(leave, LINGER_MS);
  }
}

let input = "";
for await (const part of process.stdin) input += part;
const answers = JSON.parse(input).map(async (each) => ({ name: each.name, ...(await subscribe(each)) }));
const lines = (await Promise.all(answers)).map((answer) => JSON.stringify(answer) + "\n");
process.stdout.end(lines.join(""), () => process.exit(0)); // connections may still be open
