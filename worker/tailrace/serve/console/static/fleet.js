// The fleet as it is now, every ten seconds while somebody looks.

import { fresh } from "./console.js";

const EVERY_MS = 10_000;

setInterval(() => {
  if (document.visibilityState === "visible" && !document.querySelector("dialog[open]")) fresh().catch(() => {});
}, EVERY_MS);
