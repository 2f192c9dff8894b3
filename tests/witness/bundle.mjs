// Makes page.js, one file that a browser runs, of page.jsx and what it imports. Prints "made".

import { build } from "esbuild";

await build({
  entryPoints: ["page.jsx"],
  bundle: true,
  outfile: "page.js",
  format: "iife",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
  external: ["node:*"], // in a branch that browsers do not take
  logLevel: "error",
});
process.stdout.write('"made"');
