// Reads a stream to its end and writes batches of 500 rows, each with its checkpoint in one transaction.
import pg from "pg";
import { count, databaseUrl, open, report, runId } from "./client.mjs";

const BATCH = 500;
const database = new pg.Client({ connectionString: databaseUrl });
await database.connect();
await database.query("DROP TABLE IF EXISTS node_chunks, node_checkpoints");
await database.query(
  "CREATE TABLE node_chunks (run_id text, position bigint, data json NOT NULL, PRIMARY KEY (run_id, position))",
);
await database.query("CREATE TABLE node_checkpoints (run_id text PRIMARY KEY, last_event_id text)");
await database.query("INSERT INTO node_checkpoints VALUES ($1, '')", [runId]);

let texts = [];
let stored = 0;
async function flush(lastEventId) {
  await database.query("BEGIN");
  // One JSON text is the fastest that `pg` sends: it escapes every element of an array.
  await database.query(
    "INSERT INTO node_chunks SELECT $1, $2 + n - 1, v FROM json_array_elements($3::json) WITH ORDINALITY AS e (v, n)",
    [runId, stored, `[${texts.join(",")}]`],
  );
  await database.query("UPDATE node_checkpoints SET last_event_id = $2 WHERE run_id = $1", [runId, lastEventId]);
  await database.query("COMMIT");
  stored += texts.length;
  texts = [];
}

const began = performance.now();
const before = process.cpuUsage();
const reader = await open();
for (let found = 0; found < count; found++) {
  const { done, value } = await reader.read();
  if (done) throw new Error(`the stream ended after ${found} chunks`);
  texts.push(JSON.stringify(value.chunk));
  if (texts.length === BATCH || found === count - 1) await flush(value.id);
}
report(began, before);
