// What every page can do: keys, copying, and being made fresh. All of it works without, but for the keys.

const typing = (target) => target instanceof HTMLElement && target.matches("input, select, textarea, [contenteditable]");
const rows = () => [...document.querySelectorAll("main a[data-row]")];
const go = (selector) => document.querySelector(selector)?.click();

function step(by) {
  const links = rows();
  if (!links.length) return;
  const here = links.indexOf(document.activeElement);
  const next = links[here < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, here + by))];
  next.focus();
  next.closest("tr")?.scrollIntoView({ block: "nearest" });
}

let began = "";
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const whole = began + event.key;
  began = "";
  const done = () => event.preventDefault();
  if (whole === "gr") { done(); location.assign("/"); }
  else if (whole === "gf") { done(); location.assign("/console/fleet"); }
  else if (event.key === "g") began = "g";
  else if (event.key === "j") { done(); step(1); }
  else if (event.key === "k") { done(); step(-1); }
  else if (event.key === "n") go('main .pager a[rel="next"]');
  else if (event.key === "p") go('main .pager a[rel="prev"]');
  else if (event.key === "?") { done(); document.getElementById("keys").showModal(); }
  else if (/^[1-9]$/.test(event.key)) go(`main a[data-key="${event.key}"]`);
  else if (event.key === "/") {
    done();
    const search = document.querySelector('input[name="q"]');
    if (search) search.select();
    else location.assign("/#search");
  }
});
if (location.hash === "#search") document.querySelector('input[name="q"]')?.select();

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element ? event.target.closest("button[data-copy]") : null;
  if (!button) return;
  const what = button.dataset.copy;
  const text = what.startsWith("#") ? document.querySelector(what).textContent : what;
  let said = "copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    said = "not allowed"; // browsers copy on https and localhost only
  }
  button.textContent = said;
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

// Replace what the page shows by what it would show now; what is unfolded stays so. The page that comes is parsed
// without running anything of it.
// ``more``: what the address says besides.
export async function fresh(more = {}) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(more)) url.searchParams.set(name, value);
  const answer = await fetch(url, { headers: { accept: "text/html" }, redirect: "error" });
  if (!answer.ok) throw new Error(`${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const main = page.getElementById("main");
  for (const each of document.querySelectorAll("main details[open][id]")) {
    const same = main.querySelector(`#${CSS.escape(each.id)}`);
    if (same) same.open = true;
  }
  const focused = document.activeElement?.getAttribute?.("href");
  document.getElementById("main").replaceWith(main);
  if (focused) document.querySelector(`main a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}
