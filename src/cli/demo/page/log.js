// Every event as it came, newest first; and the commands with which a terminal says something.

import { $, clock, element, say } from "/dom.js";
import { remember, state } from "/state.js";

const LOG_LIMIT = 200;
let paused = false;
let held = []; // events that arrived while the log was paused
let commands = {};

// Pointers would leave no room for anything else; the page counts them.
const UNRECORDED = ["presence:update"];

export function record(entry) {
  if (UNRECORDED.includes(entry.event)) return;
  entry.at = Date.now();
  remember(entry);
  if (!paused) return show([entry]);
  held.push(entry);
  if (held.length > LOG_LIMIT) held.shift();
  say($("held"), `${held.length === LOG_LIMIT ? "more than " : ""}${held.length} waiting`);
}

// What one person saw is not for the next.
export function emptyLog() {
  held = [];
  state.events.length = 0;
  $("log").replaceChildren();
  say($("held"), paused ? "0 waiting" : "");
}

function show(entries) {
  const log = $("log");
  for (const { event, id, data, at } of entries) {
    log.prepend(element("li", { className: `event event-${event.split(":")[0]}` },
      element("span", { className: "event-time", textContent: clock(at) }),
      element("span", { className: "event-name", textContent: event }),
      element("span", { className: "event-id", textContent: id, title: id ? "The id that this event carried" : "" }),
      element("code", { className: "event-data", textContent: spaced(data) })));
  }
  while (log.children.length > LOG_LIMIT) log.lastChild.remove();
}

// On one line, but with spaces to break it at.
const spaced = (data) => JSON.stringify(data, null, 1).replace(/\n\s*/g, " ");

export function togglePause() {
  paused = !paused;
  const button = $("pause");
  button.ariaPressed = String(paused);
  say(button, paused ? "Resume" : "Pause");
  show(held);
  held = [];
  say($("held"), paused ? "0 waiting" : "");
}

export function showJobChoices(jobs) {
  const select = $("publish").elements.job;
  const chosen = select.value;
  select.replaceChildren(...jobs.map((id) => element("option", { value: id, textContent: id })));
  if (jobs.includes(chosen)) select.value = chosen;
  showCommands();
}

// The server knows its own address and key, the form knows the update: `{jobId}`, `{status}`, `{progress}`, `{message}`
// and `{update}` (the whole as JSON) in the server's commands stand for the form's values, quoted for a shell.
export function showCommands() {
  const { job, status, progress, message } = Object.fromEntries(new FormData($("publish")));
  const update = { jobId: job, status, progress: Number(progress), message };
  const values = { jobId: job, status, progress: String(update.progress), message, update: JSON.stringify(update) };
  const fill = (template) => template.replace(/\{(jobId|status|progress|message|update)\}/g, (_, name) => quote(values[name]));
  const rows = [
    ["tidings", commands.publish],
    ["curl", commands.curl],
    ["Redis (with REDIS_URL set)", "redis-cli PUBLISH job-updates {update}"],
  ];
  $("commands").replaceChildren(...rows.filter(([, template]) => template).map(([name, template]) => {
    const code = element("code", { textContent: fill(template) });
    const button = element("button", { type: "button", textContent: "Copy", ariaLabel: `Copy the ${name} command` });
    button.addEventListener("click", () => copy(code, button));
    return element("li", {}, element("div", { className: "command-head" }, element("span", { className: "quiet", textContent: name }), button), code);
  }));
}

const quote = (text) => (/^[\w.:@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    say(button, "Copied");
  } catch {
    // The clipboard is only for secure origins; elsewhere the selection waits for Ctrl+C.
    getSelection().selectAllChildren(code);
    say(button, "Selected");
  }
  setTimeout(() => say(button, "Copy"), 1500);
}

export async function loadCommands() {
  try {
    const answer = await fetch("/demo/commands");
    if (answer.ok) commands = await answer.json();
  } catch {
    // Without them the form still shows the Redis line.
  }
  showCommands();
}
