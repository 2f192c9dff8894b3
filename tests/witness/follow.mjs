// Follows a run while it goes on, with the official client, and prints what it is told, a line of JSON each: [what, value].
//
// Input: JSON on stdin: {url, key, runId, streamKey, tag, chunks}. It ends when the run has ended and so many chunks came.

import { configure, runs, streams } from "@trigger.dev/sdk";

let text = "";
for await (const part of process.stdin) text += part;
const { url, key, runId, streamKey, tag, chunks } = JSON.parse(text);
configure({ baseURL: url, accessToken: key });

const say = (what, value) => process.stdout.write(JSON.stringify([what, value]) + "\n");

async function stream() {
  let count = 0;
  for await (const chunk of await streams.read(runId, streamKey, { timeoutInSeconds: 600 })) {
    say("chunk", chunk);
    count += 1;
    if (count === chunks) return;
  }
}

async function run() {
  for await (const { status, realtimeStreams } of runs.subscribeToRun(runId)) say("run", [status, realtimeStreams]);
}

async function tagged() {
  for await (const { id, status } of runs.subscribeToRunsWithTag(tag)) {
    say("tagged", [id, status]);
    if (status === "COMPLETED") return;
  }
}

await Promise.all([stream(), run(), tagged()]);
say("over", null);
