// Reduces streams of UI message chunks with the AI SDK itself and prints the message that it ends with, a line of JSON
// for each stream.
//
// Input: JSON on stdin, a list of lists of chunks. Each chunk is tried with those before it that were taken: one at which
// readUIMessageStream fails is refused and left out, as Tailrace keeps it apart.
// Output: {parts, refused}; parts without step-start, but with the number of step-starts before each; refused: indices.

import { readUIMessageStream } from "ai";

async function reduce(chunks) {
  let failure, message;
  const stream = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(structuredClone(chunk));
      controller.close();
    },
  });
  const onError = (error) => {
    if (error?.name !== "Error") failure = error; // an `error` chunk is told as a plain Error, and fails nothing
  };
  for await (const snapshot of readUIMessageStream({ stream, onError })) message = snapshot;
  return { failure, parts: message?.parts ?? [] };
}

async function answer(chunks) {
  const taken = [];
  const refused = [];
  for (const [at, chunk] of chunks.entries()) {
    if ((await reduce([...taken, chunk])).failure === undefined) taken.push(chunk);
    else refused.push(at);
  }
  let step = 0;
  const parts = [];
  for (const part of (await reduce(taken)).parts) {
    if (part.type === "step-start") step += 1;
    else parts.push({ step, ...part });
  }
  return { parts, refused };
}

let input = "";
for await (const part of process.stdin) input += part;
for (const chunks of JSON.parse(input)) console.log(JSON.stringify(await answer(chunks)));
