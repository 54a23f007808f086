// The demo page. Everything it knows arrives over the browser's own EventSource; there is no client library, so that
// what works here works in any page. Text from the server is only ever set as textContent.

const LOG_LIMIT = 200;
const NOTICE_LIMIT = 5;
const EVENTS = [
  "connected", "ready", "job:update", "notification", "reset", "heartbeat", "problem", "end",
  "subscribed", "unsubscribed", "token:expiring", "message",
];
const VERDICTS = {
  none: ["no verdict yet", "The server says at each connect whether anything can be missing."],
  live: ["live", "A first visit: the current state of every job, then everything as it happens."],
  resumed: ["resumed", "Nothing was missed: the server replayed what came after the last event id."],
  reset: ["reset", "Something may be missing, so the cards were emptied and told anew."],
};

const $ = (id) => document.getElementById(id);
const cards = new Map();
let source = null; // the open EventSource, if any
let session = null; // the answer of POST /demo/session
let attempt = 0; // how many sessions were asked for; an answer to an older question is ignored
let paused = false;
let held = []; // events that arrived while the log was paused
let commands = {};

const state = {
  connection: "connecting",
  reason: "",
  verdict: "none",
  verdicts: {},
  denied: {},
  connectionId: null,
  lastEventId: "",
  jobs: {},
  events: [], // the newest last, at most LOG_LIMIT
  counts: { events: 0, updates: 0, replayed: 0, reconnects: 0 },
  heartbeatMs: 15_000,
  heardAt: 0,
  ready: false,
};
// For people with the developer tools open, and for the browser test.
window.tidings = { state };

// ---- the stream -----------------------------------------------------------------------------------------------------

async function start(user) {
  const mine = ++attempt;
  close();
  forgetAll();
  connection("connecting", "Asking for a session.");
  try {
    const answer = await post("/demo/session", user ? { user } : {});
    if (mine !== attempt) return;
    session = answer;
  } catch (error) {
    if (mine === attempt) connection("ended", `No session: ${error.message}`);
    return;
  }
  showUsers();
  // Cards that stay are kept in place, so that choosing another user moves nothing.
  for (const [id, { root }] of cards) {
    if (session.jobs.includes(id)) continue;
    root.remove();
    cards.delete(id);
  }
  session.jobs.forEach(card);
  showJobChoices();
  open();
}

function open(cursor) {
  close();
  const channels = [...session.jobs.map((id) => `jobs.${id}`), "user.me"].join(",");
  const url = `/v1/events?channels=${channels}${cursor ? `&last_event_id=${encodeURIComponent(cursor)}` : ""}`;
  connection("connecting", "Opening the stream.");
  state.heardAt = Date.now();
  const opened = new EventSource(url);
  source = opened;
  for (const name of EVENTS) opened.addEventListener(name, (event) => receive(name, event));
  opened.onerror = () => {
    if (opened !== source) return;
    state.ready = false;
    if (opened.readyState === EventSource.CONNECTING) {
      if (state.connection !== "reconnecting") connection("reconnecting", "The connection is gone. The browser tries again by itself.");
    } else {
      explain(url);
    }
  };
}

function close() {
  source?.close();
  source = null;
  state.ready = false;
}

// An EventSource that failed can't say why. The same URL, asked for JSON, can.
async function explain(url) {
  const known = state.connectionId !== null;
  const mine = attempt;
  close();
  let reason = "The server refused the stream.";
  try {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    const error = answer.ok ? null : await answer.json();
    if (mine !== attempt) return;
    // The demo makes a new secret at each start: after a restart the old cookie is worth nothing, a new session is.
    if (error?.code === "AUTH_REQUIRED" && known) return start(session.user.id);
    if (error) reason = `${error.code}: ${error.message}`;
  } catch {
    if (mine !== attempt) return;
    reason = "The server does not answer.";
  }
  connection("ended", reason);
}

// A half-open TCP connection looks alive to EventSource for ever; heartbeats that stay away tell the truth.
function watch() {
  if (source && state.connection === "live" && Date.now() - state.heardAt > 3 * state.heartbeatMs) {
    open(state.lastEventId);
    connection("reconnecting", "Nothing was heard for three heartbeats; asking again from the last event id.");
  }
  showHeard();
}

// ---- what arrives ---------------------------------------------------------------------------------------------------

function receive(name, event) {
  if (event.target !== source) return;
  let data;
  try {
    data = JSON.parse(event.data);
  } catch {
    data = { unreadable: event.data };
  }
  // The browser repeats the last id on events that carry none; only a new one says something.
  const id = event.lastEventId === state.lastEventId ? "" : event.lastEventId;
  state.lastEventId = event.lastEventId;
  state.heardAt = Date.now();
  state.counts.events += 1;
  if (id && state.connectionId && !state.ready && name !== "ready") state.counts.replayed += 1;
  handlers[name]?.(data);
  record({ event: name, id, data });
  showFacts();
}

const handlers = {
  connected(data) {
    // Every `connected` but the first of a session is a reconnect, whoever noticed the cut.
    if (state.connectionId && state.connection === "reconnecting") state.counts.reconnects += 1;
    state.connectionId = data.connectionId;
    state.heartbeatMs = data.heartbeatMs ?? state.heartbeatMs;
    state.ready = false;
    state.verdicts = {};
    state.denied = {};
    state.counts.replayed = 0;
    for (const { channel, verdict } of data.channels ?? []) state.verdicts[channel] = verdict;
    for (const { channel, code } of data.denied ?? []) state.denied[channel] = code;
    const said = Object.values(state.verdicts);
    verdict(["reset", "resumed"].find((v) => said.includes(v)) ?? "live");
    connection("live", "Catching up.");
    forget(Object.keys(state.verdicts).filter((channel) => state.verdicts[channel] === "reset"));
    cards.forEach((_, id) => showJob(id));
  },
  ready() {
    state.ready = true;
    connection("live", "Everything up to now has been said.");
  },
  "job:update"(data) {
    state.counts.updates += 1;
    // The data is the whole folded state, so it replaces what the card knew.
    state.jobs[data.jobId] = data;
    showJob(data.jobId);
  },
  notification: notice,
  message: notice,
  reset(data) {
    verdict("reset");
    for (const channel of data.channels ?? []) state.verdicts[channel] = "reset";
    forget(data.channels ?? []);
  },
  subscribed(data) {
    delete state.denied[data.channel];
    state.verdicts[data.channel] = data.verdict;
    showJob(jobOf(data.channel));
  },
  unsubscribed(data) {
    delete state.verdicts[data.channel];
    state.denied[data.channel] = data.code ?? data.reason;
    forget([data.channel]);
  },
  problem(data) {
    connection("reconnecting", `${data.code}: ${data.message}`);
  },
  end(data) {
    const reason = `The server ended the stream: ${data.reason}.`;
    if (data.reconnect) return connection("reconnecting", reason);
    close();
    connection("ended", reason);
  },
  "token:expiring"(data) {
    connection("live", `The session ends at ${clock(data.expiresAt)}.`);
  },
};

function notice(data) {
  const text = data.title ?? data.message ?? data.text ?? JSON.stringify(data);
  const list = $("notices");
  list.querySelector(".empty")?.remove();
  list.prepend(element("li", {}, element("span", { className: "quiet mono", textContent: clock(data.timestamp ?? Date.now()) }), ` ${text}`));
  while (list.children.length > NOTICE_LIMIT) list.lastChild.remove();
}

// After a `reset` or a revocation the page must not go on showing what it once knew.
function forget(channels) {
  for (const id of channels.map(jobOf).filter(Boolean)) {
    delete state.jobs[id];
    showJob(id);
  }
}

function forgetAll() {
  Object.assign(state, { verdicts: {}, denied: {}, connectionId: null, lastEventId: "", jobs: {} });
  Object.assign(state.counts, { events: 0, updates: 0, replayed: 0, reconnects: 0 });
  cards.forEach((_, id) => showJob(id));
  $("notices").replaceChildren(element("li", { className: "empty quiet", textContent: "Nothing yet." }));
  verdict("none");
  showFacts();
}

const jobOf = (channel) => (channel.startsWith("jobs.") ? channel.slice("jobs.".length) : undefined);

// ---- what is shown --------------------------------------------------------------------------------------------------

function connection(name, reason) {
  state.connection = name;
  state.reason = reason;
  document.body.dataset.connection = name;
  say($("connection"), name);
  say($("reason"), reason);
  const cut = $("cut");
  say(cut, name === "ended" ? "Open again" : "Cut the stream");
  say($("cut-why"), name === "ended" ? "A new session, and a new stream." : "The server drops the TCP connection. The browser comes back by itself.");
  cut.disabled = name === "connecting" || name === "reconnecting";
}

function verdict(name) {
  state.verdict = name;
  const [word, why] = VERDICTS[name];
  const chip = $("verdict");
  chip.dataset.verdict = name;
  say(chip, word);
  say($("verdict-why"), why);
  if (name === "none") return;
  // The same verdict twice is news as well: take the class away and look at the layout, so that it plays again.
  chip.classList.remove("fresh");
  void chip.offsetWidth;
  chip.classList.add("fresh");
}

function showFacts() {
  say($("cursor"), state.lastEventId || "–");
  for (const [name, count] of Object.entries(state.counts)) say($(`count-${name}`), String(count));
  showHeard();
}

function showHeard() {
  const seconds = Math.round((Date.now() - state.heardAt) / 1000);
  say($("heard"), !state.connectionId ? "–" : seconds < 1 ? "now" : `${seconds} s ago`);
}

function card(id) {
  if (cards.has(id)) return cards.get(id);
  const part = (tag, className, properties) => element(tag, { className, ...properties });
  const parts = {
    chip: part("span", "chip"),
    percent: part("span", "percent"),
    fill: part("div", "fill"),
    message: part("p", "message"),
    detail: part("p", "detail quiet"),
    attempt: part("span"),
    verdict: part("span"),
    time: part("time", "mono"),
  };
  parts.bar = element("div", { className: "bar", role: "progressbar", ariaLabel: `Progress of ${id}`, ariaValueMin: "0", ariaValueMax: "100" }, parts.fill);
  parts.root = element("li", { className: "job" },
    element("div", { className: "job-head" }, part("h3", "", { textContent: id }), parts.chip),
    element("div", { className: "job-bar" }, parts.bar, parts.percent),
    parts.message, parts.detail,
    element("p", { className: "job-foot quiet" }, parts.verdict, parts.attempt, parts.time));
  cards.set(id, parts);
  $("jobs").append(parts.root);
  showJob(id);
  return parts;
}

function showJob(id) {
  if (!id) return;
  const { root, chip, percent, bar, fill, message, detail, attempt, verdict, time } = card(id);
  const job = state.jobs[id];
  const denied = state.denied[`jobs.${id}`];
  const status = denied ? "not yours" : job?.status ?? "not known yet";
  const progress = job?.progress;
  root.dataset.tone = denied ? "denied" : tone(job);
  root.classList.toggle("terminal", Boolean(job?.terminal));
  say(chip, status);
  fill.style.transform = `scaleX(${(progress ?? 0) / 100})`;
  bar.ariaValueNow = progress === undefined ? null : String(Math.round(progress));
  bar.ariaValueText = denied ? "not yours" : progress === undefined ? "unknown" : null;
  say(percent, progress === undefined ? "" : `${Math.round(progress)} %`);
  say(message, denied ? deniedText(denied) : job?.error ? `${job.error.code}: ${job.error.message ?? ""}` : job?.message ?? "");
  say(detail, job?.data ? brief(job.data) : "");
  say(attempt, job?.attempt ? `attempt ${job.attempt}` : "");
  say(verdict, state.verdicts[`jobs.${id}`] ?? "");
  say(time, job?.timestamp ? clock(job.timestamp) : "");
  if (job?.timestamp) time.dateTime = job.timestamp;
}

function tone(job) {
  if (!job) return "empty";
  if (["completed", "succeeded"].includes(job.status)) return "good";
  if (["cancelled", "canceled"].includes(job.status)) return "off";
  if (job.terminal) return "bad";
  if (["stalled", "lost", "retrying"].includes(job.status)) return "warn";
  return job.status === "queued" ? "wait" : "busy";
}

const deniedText = (code) =>
  code === "PERMISSION_DENIED" ? "This job belongs to somebody else, or does not exist. The server gives both the same answer." : `Not on this stream: ${code}.`;

const brief = (data) => Object.entries(data).map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ");

function showUsers() {
  const select = $("user");
  select.replaceChildren(...session.users.map(({ id, name }) => element("option", { value: id, textContent: name ?? id })));
  select.value = session.user.id;
  select.disabled = false;
}

// ---- the log --------------------------------------------------------------------------------------------------------

function record(entry) {
  entry.at = Date.now();
  state.events.push(entry);
  if (state.events.length > LOG_LIMIT) state.events.shift();
  if (!paused) return show([entry]);
  held.push(entry);
  if (held.length > LOG_LIMIT) held.shift();
  say($("held"), `${held.length === LOG_LIMIT ? "more than " : ""}${held.length} waiting`);
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

function togglePause() {
  paused = !paused;
  const button = $("pause");
  button.ariaPressed = String(paused);
  say(button, paused ? "Resume" : "Pause");
  show(held);
  held = [];
  say($("held"), paused ? "0 waiting" : "");
}

// ---- the publish form -----------------------------------------------------------------------------------------------

function showJobChoices() {
  const select = $("publish").elements.job;
  const chosen = select.value;
  select.replaceChildren(...session.jobs.map((id) => element("option", { value: id, textContent: id })));
  if (session.jobs.includes(chosen)) select.value = chosen;
  showCommands();
}

// The server knows its own address and key, the form knows the update: `{jobId}`, `{status}`, `{progress}`, `{message}`
// and `{update}` (the whole as JSON) in the server's commands stand for the form's values, quoted for a shell.
function showCommands() {
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

// ---- helpers --------------------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Unchanged text is left alone, so that a screen reader is not told the same thing twice.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clock(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

async function post(url, body) {
  const answer = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const said = await answer.text();
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return said ? JSON.parse(said) : null;
}

function theme(choice) {
  document.documentElement.dataset.theme = choice;
  say($("theme"), `Theme: ${choice}`);
  try {
    localStorage.setItem("theme", choice);
  } catch {
    // A browser that keeps nothing still has a page.
  }
}

function rememberedTheme() {
  try {
    return localStorage.getItem("theme") ?? "auto";
  } catch {
    return "auto";
  }
}

// ---- beginning ------------------------------------------------------------------------------------------------------

$("cut").addEventListener("click", async () => {
  if (state.connection === "ended") return start(session?.user.id);
  try {
    await post("/demo/cut", { connectionId: state.connectionId });
  } catch (error) {
    connection(state.connection, error.message);
  }
});
$("user").addEventListener("change", (event) => start(event.target.value));
$("theme").addEventListener("click", () => {
  const choices = ["auto", "light", "dark"];
  theme(choices[(choices.indexOf(document.documentElement.dataset.theme) + 1) % choices.length]);
});
$("pause").addEventListener("click", togglePause);
$("publish").addEventListener("input", showCommands);
$("publish").addEventListener("submit", (event) => event.preventDefault());

theme(rememberedTheme());
setInterval(watch, 1000);
start();
fetch("/demo/commands")
  .then((answer) => (answer.ok ? answer.json() : {}))
  .then((answer) => {
    commands = answer;
    showCommands();
  })
  .catch(() => {}); // without them the form still shows the Redis line
