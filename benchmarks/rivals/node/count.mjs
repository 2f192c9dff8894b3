// Reads a stream to its end and only counts.
import { count, open, report } from "./client.mjs";

const began = performance.now();
const before = process.cpuUsage();
const reader = await open();
for (let found = 0; found < count; found++) {
  const { done } = await reader.read();
  if (done) throw new Error(`the stream ended after ${found} chunks`);
}
report(began, before);
