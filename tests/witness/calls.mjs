// What the official client gets from a server, call by call: the same calls of any base URL, so that two can be compared.
//
// Input: JSON on stdin: {url, key, runs}; `runs` names those that are asked for (test_calls.py has them).
// Output: one JSON object, name of the call → what it gave; `{"$error": …}` for what it threw. What has no JSON
// (undefined) is shown as {"$undefined": true}. The last one is shown when the process has nothing left to wait for.

import { ApiClient } from "@trigger.dev/core/v3";
import { auth, configure, runs, streams } from "@trigger.dev/sdk";

const { url, key, runs: named } = JSON.parse(await read(process.stdin));
const ONCE = { retry: { maxAttempts: 1 } };
const SHORT = { timeoutInSeconds: 1 };
configure({ baseURL: url, accessToken: key });

let onFeedRequest = () => {};
const fetched = globalThis.fetch;
globalThis.fetch = (address, ...rest) => {
  if (new URL(String(address.url ?? address)).pathname === "/realtime/v1/runs") onFeedRequest();
  return fetched(address, ...rest);
};

const { ai, report, numbers, waiting, odd, other, broken, brokenLines } = named;

const calls = {
  // Streams, with each of the options of `streams.read`.
  "streams.read v2": async () => all(await streams.read(ai, "ai-output", SHORT)),
  "streams.read v1": async () => all(await streams.read(report, "report", SHORT)),
  "streams.read default key": async () => all(await streams.read(numbers, SHORT)),
  "streams.read startIndex 0": async () => all(await streams.read(numbers, { ...SHORT, startIndex: 0 })),
  "streams.read startIndex 1": async () => all(await streams.read(numbers, { ...SHORT, startIndex: 1 })),
  "streams.read startIndex 7": async () => all(await streams.read(numbers, { ...SHORT, startIndex: 7 })),
  "streams.read startIndex beyond": async () => all(await streams.read(numbers, { ...SHORT, startIndex: 99 })),
  "streams.read startIndex v1": async () => all(await streams.read(report, "report", { ...SHORT, startIndex: 7 })),
  "streams.read from latest": async () => all(await streams.read(numbers, { ...SHORT, from: "latest" })),
  "streams.read from latest v1": async () => all(await streams.read(report, "report", { ...SHORT, from: "latest" })),
  "streams.read from latest of none": async () => all(await streams.read(numbers, "none", { ...SHORT, from: "latest" })),
  "streams.read from and startIndex": async () =>
    all(await streams.read(numbers, { ...SHORT, from: "latest", startIndex: 8 })),
  "streams.read odd chunks": async () => all(await streams.read(odd, "odd", SHORT)),
  "streams.read broken": async () => all(await streams.read(broken, "odd", SHORT)),
  "streams.read broken v1": async () => all(await streams.read(brokenLines, "odd", SHORT)),
  "streams.read a key never written": async () => all(await streams.read(numbers, "none", SHORT)),
  "streams.read signal": async () => {
    const stop = new AbortController();
    const got = [];
    for await (const chunk of await streams.read(waiting, "slow", { timeoutInSeconds: 600, signal: stop.signal })) {
      got.push(chunk);
      if (got.length === 2) stop.abort();
    }
    return got;
  },
  "streams.read without a limit": async () => all(await streams.read(numbers)),
  "streams.read unknown run": async () => all(await streams.read("run_none", "none", SHORT)),
  "streams.define().read": async () =>
    all(await streams.define({ id: "progress" }).read(ai, { ...SHORT, startIndex: 3 })),
  "parts v2": async () => parts(numbers, "default"),
  "parts v1": async () => parts(report, "report"),
  "parts resumed v2": async () => parts(numbers, "default", "4"),
  "parts odd": async () => parts(odd, "odd"),
  "parts broken": async () => parts(broken, "odd"),
  "runs.fetchStream": async () => (await all(await runs.fetchStream(numbers, "default"))).length,

  // A run.
  ...Object.fromEntries(
    Object.values(named).map((runId) => [`runs.retrieve ${runId}`, async () => runs.retrieve(runId)]),
  ),
  "runs.retrieve unknown": async () => runs.retrieve("run_none", ONCE),
  "runs.poll": async () => (await runs.poll(ai)).status,
  "runs.subscribeToRun": async () => all(runs.subscribeToRun(ai)),
  "runs.subscribeToRun v1": async () => all(runs.subscribeToRun(report)),
  "runs.subscribeToRun skipColumns": async () => all(runs.subscribeToRun(ai, { skipColumns: ["payload", "metadata"] })),
  "runs.subscribeToRun not over": async () => first(1, runs.subscribeToRun(waiting)),
  "runs.subscribeToRun stopOnCompletion": async () => first(1, runs.subscribeToRun(ai, { stopOnCompletion: false })),
  "withStreams": async () => withStreams(ai, { "ai-output": 726, progress: 11 }),
  "withStreams v1": async () => withStreams(report, { report: 204 }),

  // Many runs.
  "runs.list": async () => page(await runs.list({ limit: 100, period: "30d" })),
  "runs.list without a window": async () => page(await runs.list()),
  "runs.list every page": async () => {
    const ids = [];
    for await (const run of runs.list({ limit: 3, period: "30d" })) ids.push(run.id);
    return ids;
  },
  "runs.list there and back": async () => {
    const one = await runs.list({ limit: 4, period: "30d" });
    const two = await one.getNextPage();
    const back = await two.getPreviousPage();
    return [one, two, back].map((each) => ({ ...ids(each), next: each.hasNextPage(), previous: each.hasPreviousPage() }));
  },
  ...Object.fromEntries(
    Object.entries({
      status: { status: "FAILED" },
      statuses: { status: ["FAILED", "CANCELED", "EXECUTING"] },
      "status of none": { status: "EXPIRED" },
      task: { taskIdentifier: "count" },
      tasks: { taskIdentifier: ["count", "monthly-report"] },
      tag: { tag: "even" },
      "tags, any of them": { tag: ["even", "demo"] },
      "a tag and a task": { tag: "even", taskIdentifier: "count" },
      from: { from: new Date("2026-11-01T09:10:03Z") },
      to: { to: new Date("2026-11-01T09:10:03Z") },
      "from and to": { from: Date.parse("2026-11-01T09:10:02Z"), to: Date.parse("2026-11-01T09:10:04Z") },
      period: { period: "56m" },
      "no tests": { isTest: false },
      "only tests": { isTest: true },
      version: { version: "20990101.1" },
      schedule: { schedule: "sched_1" },
      batch: { batch: "batch_1" },
      bulkAction: { bulkAction: "bulk_1" },
      queue: { queue: { type: "custom", name: "none" } },
      machine: { machine: "large-2x" },
      region: { region: "eu-central-1" },
    }).map(([name, query]) => [
      `runs.list ${name}`,
      async () => ids(await runs.list({ limit: 100, ...("from" in query || "to" in query ? {} : { period: "30d" }), ...query })),
    ]),
  ),
  "runs.list refused": async () => runs.list({ status: "COMPLETED_SUCCESSFULLY" }, ONCE),
  "runs.subscribeToRunsWithTag": async () => first(7, runs.subscribeToRunsWithTag("even")),
  "runs.subscribeToRunsWithTag all of them": async () => first(2, runs.subscribeToRunsWithTag(["even", "third"])),
  "runs.subscribeToRunsWithTag createdAt": async () =>
    first(3, runs.subscribeToRunsWithTag("even", { createdAt: "2990s", skipColumns: ["payload"] })),

  // Keys.
  "another key": async () =>
    auth.withAuth({ baseURL: url, accessToken: "tr_dev_none" }, async () => runs.retrieve(ai, ONCE)),
};

function read(stream) {
  return new Promise((resolve, reject) => {
    let text = "";
    stream.setEncoding("utf8").on("data", (part) => (text += part)).on("end", () => resolve(text)).on("error", reject);
  });
}

async function all(stream) {
  const got = [];
  for await (const each of stream) got.push(each);
  return got;
}

async function first(count, stream) {
  const got = [];
  for await (const each of stream) {
    got.push(each);
    if (got.length === count) break;
  }
  return got;
}

const ids = (found) => ({ ids: found.data.map((run) => run.id) });
const page = (found) => ({ data: found.data, pagination: found.pagination });

async function parts(runId, streamKey, lastEventId) {
  const got = [];
  const onPart = (part) => got.push(part);
  await all(await new ApiClient(url, key).fetchStream(runId, streamKey, { ...SHORT, lastEventId, onPart }));
  return got;
}

async function withStreams(runId, expected) {
  const got = { run: [], ...Object.fromEntries(Object.keys(expected).map((streamKey) => [streamKey, []])) };
  for await (const part of runs.subscribeToRun(runId).withStreams()) {
    if (part.type === "run") got.run.push(part.run);
    else got[part.type].push(part.chunk);
    if (Object.entries(expected).every(([streamKey, count]) => got[streamKey].length >= count)) break;
  }
  return got;
}

// 4.8.3 gives up its subscription half a minute after the end of the run, and leaves this iterator open for good.
const HALF_A_MINUTE_MS = 30_000;

async function withStreamsLeftAlone(runId) {
  const setReal = globalThis.setTimeout;
  globalThis.setTimeout = (done, delay, ...rest) => setReal(done, delay === HALF_A_MINUTE_MS ? 100 : delay, ...rest);
  const got = {};
  let ended = false;
  process.once("beforeExit", () => {
    results["withStreams left alone"] = { got, ended };
    process.stdout.write(shown(results));
  });
  for await (const part of runs.subscribeToRun(runId).withStreams()) got[part.type] = (got[part.type] ?? 0) + 1;
  ended = true;
}

// Fields without a value are left out, as JSON does; a chunk without one is not.
function shown(value) {
  return JSON.stringify(value, function (_, each) {
    return each === undefined && Array.isArray(this) ? { $undefined: true } : each;
  });
}

const results = {};

async function called(name, call) {
  try {
    results[name] = (await call()) ?? null;
  } catch (error) {
    results[name] = { $error: { name: error?.name, status: error?.status, message: error?.message } };
  }
}

await Promise.all(Object.entries(calls).map(([name, call]) => called(name, call)));

// Each by itself: one counts requests, the other changes what the client is configured with.
await called("runs.subscribeToRunsWithTag held", async () => {
  const stop = new AbortController();
  const began = performance.now();
  let asked = 0;
  onFeedRequest = () => {
    asked += 1;
    // The first, the one that the client prefetches, and three that are live: two of those were held to their end.
    if (asked === 5) stop.abort();
  };
  const got = await all(runs.subscribeToRunsWithTag("even", undefined, { signal: stop.signal }));
  const seconds = (performance.now() - began) / 1_000;
  return { runs: new Set(got.map((run) => run.id)).size, updates: got.length, seconds };
});
await called("auth.createPublicToken", async () => {
  const token = await auth.createPublicToken({ scopes: { read: { runs: [ai] } }, expirationTime: "5m" });
  const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
  const asked = { baseURL: url, accessToken: token };
  return {
    claims: { pub: claims.pub, scopes: claims.scopes, iss: claims.iss, sub: typeof claims.sub, lasts: claims.exp - claims.iat },
    run: await auth.withAuth(asked, async () => (await runs.retrieve(ai, ONCE)).id),
    chunks: (await auth.withAuth(asked, async () => all(await streams.read(ai, "ai-output", SHORT)))).length,
    other: await auth.withAuth(asked, async () => runs.retrieve(other, ONCE)).catch((error) => error.status),
  };
});
withStreamsLeftAlone(ai);
