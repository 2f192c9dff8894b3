// Reads streams with the official client and prints what it hands over, a line of JSON for each stream.
//
// Input: JSON on stdin, a list of {name, url, runId, key, chunks, timeoutMs}. A stream is read until the client says that
// it is over, until it has handed over `chunks` chunks and then nothing more for a moment, or until the time is up.
// Output: {name, chunks, end}; what has no JSON (undefined) is shown as {"$undefined": true}.

import { ApiClient } from "@trigger.dev/core/v3";

const KEY = process.env.WITNESS_KEY;
const QUIET_MS = 300;

async function read({ url, runId, key, chunks: enough, timeoutMs }) {
  const chunks = [];
  const stop = new AbortController();
  const late = setTimeout(() => stop.abort("timeout"), timeoutMs);
  let quiet;
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
      clearTimeout(quiet);
      if (chunks.length >= enough) quiet = setTimeout(() => stop.abort("quiet"), QUIET_MS);
    }
    if (stop.signal.aborted) end = stop.signal.reason;
  } catch (error) {
    end = `${error?.name}: ${error?.message}`;
  } finally {
    clearTimeout(late);
    clearTimeout(quiet);
  }
  return { chunks, end };
}

let input = "";
for await (const part of process.stdin) input += part;
for (const stream of JSON.parse(input)) {
  process.stdout.write(JSON.stringify({ name: stream.name, ...(await read(stream)) }) + "\n");
}
process.exit(0);
