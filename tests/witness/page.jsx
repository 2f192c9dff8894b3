// A page that shows a run by the official hooks, as a frontend does, from each of some servers, and then hands in what
// they gave.
//
// It is told what to ask in `window.asked`: {urls, token, runId, streamKey, tag, expected}; `urls` has a base URL for each
// name, `expected` says how many chunks and runs there are. What it has seen, by name, it posts to /seen of its own
// server, once.

import {
  useRealtimeRun,
  useRealtimeRunWithStreams,
  useRealtimeRunsWithTag,
  useRealtimeStream,
} from "@trigger.dev/react-hooks";
import { useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";

const { urls, token, runId, streamKey, tag, expected } = window.asked;
const all = {};

function Run({ name, url }) {
  const options = { baseURL: url, accessToken: token };
  const place = useRef();
  const [over, setOver] = useState();
  const onComplete = (found, error) => setOver({ id: found.id, status: found.status, error });
  const run = useRealtimeRun(runId, { ...options, onComplete });
  const both = useRealtimeRunWithStreams(runId, options);
  const stream = useRealtimeStream(runId, streamKey, { ...options, timeoutInSeconds: 50 });
  const latest = useRealtimeStream(runId, streamKey, { ...options, from: "latest", maxParts: 1, timeoutInSeconds: 50 });
  const tagged = useRealtimeRunsWithTag(tag, { ...options, createdAt: "24h" });

  const errors = [run, both, stream, latest, tagged].map((hook) => hook.error && String(hook.error)).filter(Boolean);
  const done =
    errors.length > 0 ||
    (over &&
      Object.entries(expected.streams).every(([key, count]) => both.streams[key]?.length >= count) &&
      stream.parts.length >= expected.streams[streamKey] &&
      latest.parts.length > 0 &&
      tagged.runs.length >= expected.tagged);

  const handedIn = useRef(false);
  useEffect(() => {
    if (!done || handedIn.current) return;
    handedIn.current = true;
    all[name] = {
      errors,
      over,
      run: run.run,
      withStreams: { run: both.run, streams: both.streams },
      stream: stream.parts,
      lastEventId: stream.lastEventId,
      latest: latest.parts,
      tagged: tagged.runs.map((each) => each.id),
      shown: place.current.innerText,
    };
    if (Object.keys(all).length === Object.keys(urls).length) handIn(all);
  });

  return (
    <main ref={place}>
      <h1>
        {run.run?.id} {run.run?.status}
      </h1>
      <p>{stream.parts.map((part) => part.delta ?? "").join("")}</p>
    </main>
  );
}

function handIn(seen) {
  fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
}

window.addEventListener("error", (event) => handIn({ error: event.message }));
createRoot(document.getElementById("root")).render(
  Object.entries(urls).map(([name, url]) => <Run key={name} name={name} url={url} />),
);
