// Reads streams with the official client and prints what it hands over, a line of JSON for each stream.
//
// Input: JSON on stdin, a list of {name, url, runId, key, timeoutMs}. A stream is read until the client says that it is
// over, or until the time is up.
// Output: {name, chunks, end}; what has no JSON (undefined) is shown as {"$undefined": true}.

import { ApiClient } from "@trigger.dev/core/v3";

const KEY = process.env.WITNESS_KEY;

async function read({ url, runId, key, timeoutMs }) {
  const chunks = [];
  const stop = new AbortController();
  const late = setTimeout(() => stop.abort("timeout"), timeoutMs);
  let end = "over";
  try {
    const stream = await new ApiClient(url, KEY).fetchStream(runId, key, {
      signal: stop.signal,
      timeoutInSeconds: 1,
    });
    const reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value === undefined ? { $undefined: true } : value);
    }
    if (stop.signal.aborted) end = stop.signal.reason;
  } catch (error) {
    end = `${error?.name}: ${error?.message}`;
  } finally {
    clearTimeout(late);
  }
  return { chunks, end };
}

let input = "";
for await (const part of process.stdin) input += part;
const answers = JSON.parse(input).map(async (stream) => ({ name: stream.name, ...(await read(stream)) }));
const lines = (await Promise.all(answers)).map((answer) => JSON.stringify(answer) + "\n");
process.stdout.end(lines.join(""), () => process.exit(0)); // connections may still be open
