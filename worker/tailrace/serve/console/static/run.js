// A run while it is open: how its streams go, and the text as it grows, once a second while somebody looks.

import { fresh } from "./console.js";

const EVERY_MS = 1_000;
const WHOLE_EVERY = 10; // what only the server draws
const MANY = 1_000; // as many chunks as one answer holds

const page = () => document.getElementById("run");
let turns = 0;
let after = Number(page().dataset.checkpoint ?? -1);

async function turn() {
  const run = page();
  if (run.dataset.open !== "yes") return;
  setTimeout(turn, Number(run.dataset.every ?? EVERY_MS));
  if (document.visibilityState !== "visible" || document.querySelector("dialog[open]")) return;
  try {
    const told = await news(run);
    document.getElementById("live")?.classList.remove("away");
    if (!told.open || (run.dataset.newest === "yes" && told.generation !== undefined && String(told.generation) !== run.dataset.generation)) {
      await whole();
      return;
    }
    for (const [id, stream] of Object.entries(told.streams)) show(id, stream);
    if (run.dataset.newest === "yes" && told.chunks) grow(run, told);
    turns += 1;
    const textGrows = run.dataset.view === "text";
    if (turns % WHOLE_EVERY === 0 && !(textGrows && selecting())) await (textGrows ? bars() : whole());
  } catch {
    document.getElementById("live")?.classList.add("away");
  }
}

const selecting = () => String(getSelection()).length > 0;

async function news(run) {
  const asked = new URLSearchParams({ from: String(after + 1) });
  if (run.dataset.stream !== undefined) asked.set("stream", run.dataset.stream);
  const answer = await fetch(`${run.dataset.path}/news?${asked}`, { redirect: "error" });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}

async function whole() {
  await fresh();
  after = Number(page().dataset.checkpoint ?? -1);
}

// The pictures are the server's; the text stays, somebody reads it.
async function bars() {
  const shown = document.getElementById("text")?.textContent ?? "";
  await fresh({ bare: "yes" });
  const text = document.getElementById("text");
  if (!text || !shown) return;
  text.textContent = shown;
  document.getElementById("no-text")?.remove();
}

function show(id, [state, verdict, chunks, bytes, lag, rate]) {
  const row = document.querySelector(`tr[data-of-stream="${CSS.escape(id)}"]`);
  if (!row) return;
  pill(row.querySelector('[data-now="state"]'), state);
  pill(row.querySelector('[data-now="verdict"]'), verdict);
  write(row, "chunks", count(chunks));
  write(row, "bytes", size(bytes));
  write(row, "lag", lag ? count(lag) : "");
  write(row, "rate", rate === null ? "" : rate === 0 ? "0" : `${rate < 9.95 ? rate.toFixed(1) : Math.round(rate)}/s`);
}

function write(row, name, text) {
  const cell = row.querySelector(`[data-now="${name}"]`);
  if (cell && cell.textContent !== text) cell.textContent = text;
}

function pill(place, word) {
  const inner = place?.querySelector(".pill");
  if (!inner) return;
  inner.className = `pill is-${word.toLowerCase()}`;
  inner.textContent = word.replaceAll("_", " ");
}

function grow(run, told) {
  const text = document.getElementById("text");
  if (text) document.getElementById("no-text")?.remove();
  for (const [index, type, delta] of told.chunks) {
    after = Math.max(after, index);
    if (!text) continue;
    // As view stream_text has it, near enough while it grows: a new "start" is the answer once more, blocks are apart.
    if (type === "start") text.textContent = "";
    else if (type === "text-start" && text.textContent) text.append("\n\n");
    if (delta) text.append(delta); // a text node, whatever it holds
  }
  const checkpoint = run.querySelector('figcaption [data-now="checkpoint"]');
  if (checkpoint) checkpoint.textContent = String(told.checkpoint);
  if (told.chunks.length >= MANY) turns = WHOLE_EVERY - 1;
}

function count(number) {
  if (number < 10_000) return String(number);
  let amount = number;
  for (const unit of ["k", "M", "G"]) {
    amount /= 1000;
    if (amount < 999.5) return `${amount < 99.95 ? amount.toFixed(1) : amount.toFixed(0)}${unit}`;
  }
  return `${(amount / 1000).toFixed(0)}T`;
}

function size(number) {
  let amount = number;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (amount < 999.5) return `${unit === "B" || amount >= 99.5 ? amount.toFixed(0) : amount.toFixed(1)} ${unit}`;
    amount /= 1000;
  }
  return `${amount.toFixed(1)} TB`;
}

setTimeout(turn, EVERY_MS);
