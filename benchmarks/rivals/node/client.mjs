// The official client's reader of one stream, as its `streams.read()` uses it.
import { readFileSync } from "node:fs";
import { SSEStreamSubscription } from "@trigger.dev/core/v3";

const [, , apiUrl, runId, chunks, databaseUrl] = process.argv;

export const count = Number(chunks);
export { databaseUrl, runId };

export async function open() {
  const subscription = new SSEStreamSubscription(`${apiUrl}/realtime/v1/streams/${runId}/default`, {
    headers: { Authorization: `Bearer ${process.env.TRIGGER_KEY}` },
    timeoutInSeconds: 60,
  });
  return (await subscription.subscribe()).getReader();
}

export function report(began, before) {
  const cpu = process.cpuUsage(before);
  console.log(
    JSON.stringify({
      seconds: (performance.now() - began) / 1000,
      cpu_s: (cpu.user + cpu.system) / 1e6,
      // maxRSS would count the process that forked this one.
      peak_mb: Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) / 1024,
    }),
  );
  process.exit(0);
}
