// The panels: how the connection is, which channels the stream carries, and the shared document.

import { $, clock, element, say } from "/dom.js";
import { state } from "/state.js";

const NOTES_SHOWN = 6;
const VERDICTS = {
  none: ["no verdict yet", "The server says at each connect whether anything can be missing."],
  live: ["live", "A first visit: the current state of every job, then everything as it happens."],
  resumed: ["resumed", "Nothing was missed: the server replayed what came after the last event id."],
  reset: ["reset", "Something may be missing, so the cards were emptied and told anew."],
};
const CUTS = {
  sse: ["Cut the stream", "The server drops the TCP connection. The browser comes back by itself."],
  ws: ["Cut the socket", "The server drops the TCP connection. The page connects again, with the cursor."],
  poll: ["Abort the request", "The page drops its request, and asks again from the same cursor."],
};
const WORDS = { PERMISSION_DENIED: "not allowed", CHANNEL_NOT_FOUND: "no such channel", CONNECTION_LOST: "can’t be asked now" };

// ---- the connection -------------------------------------------------------------------------------------------------

export function connection(name, reason) {
  state.connection = name;
  state.reason = reason;
  document.body.dataset.connection = name;
  say($("connection"), name);
  say($("reason"), reason);
  const [word, why] = name === "ended" ? ["Open again", "A new session, and a new stream."] : CUTS[state.transport];
  say($("cut"), word);
  say($("cut-why"), why);
  $("cut").disabled = name === "connecting" || name === "reconnecting";
}

export function showTransport() {
  for (const input of document.querySelectorAll("#transport input")) input.checked = input.value === state.transport;
}

export function verdict(name) {
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

export function showFacts() {
  say($("cursor"), state.lastEventId || "–");
  for (const [name, count] of Object.entries(state.counts)) say($(`count-${name}`), String(count));
  for (const name of ["missed", "repeated"]) $(`count-${name}`).dataset.tone = state.counts[name] === 0 ? "good" : "bad";
  showHeard();
}

export function showHeard() {
  const seconds = Math.round((Date.now() - state.heardAt) / 1000);
  say($("heard"), !state.lastEventId ? "–" : seconds < 1 ? "now" : `${seconds} s ago`);
}

// ---- the channels ---------------------------------------------------------------------------------------------------

const rows = new Map();

// `change(name, wanted)` is called for a switch that somebody turns.
export function showChannels(change) {
  for (const name of state.known) {
    if (!rows.has(name)) addRow(name, change);
    showChannel(name);
  }
  for (const [name, { root }] of rows) {
    if (state.known.includes(name)) continue;
    root.remove();
    rows.delete(name);
  }
}

function addRow(name, change) {
  const box = element("input", { type: "checkbox", role: "switch" });
  const word = element("span", { className: "channel-word" });
  box.addEventListener("change", () => change(name, box.checked));
  const root = element("li", { className: "channel" },
    element("label", {}, box, element("span", { className: "mono channel-name", textContent: name }), word));
  rows.set(name, { root, box, word });
  $("channels").append(root);
}

function showChannel(name) {
  const { root, box, word } = rows.get(name);
  const code = state.denied[name];
  const on = name in state.verdicts;
  box.checked = on;
  root.dataset.state = on ? "on" : code ? "denied" : "off";
  say(word, on ? state.verdicts[name] : code ? WORDS[code] ?? code : "off");
}

// ---- the shared document --------------------------------------------------------------------------------------------

export function showDocument({ id, title }) {
  const channel = `docs.${id}`;
  const code = state.denied[channel];
  const on = channel in state.verdicts;
  say($("document-title"), title);
  $("document").dataset.state = on ? "on" : code ? "denied" : "off";
  say($("document-state"), on ? "You are an editor" : code ? WORDS[code] ?? code : "not followed");
  say($("document-why"), on ? "Your role is a row in the demo’s database. Take it away, and the open stream loses the channel."
    : code ? "The row is gone, and with it the channel: live, and for every reconnect and replay."
    : "The channel is not on this stream. Add it with its switch.");
  say($("role"), code ? "Give my role back" : "Take my role away");
  showNotes(on);
}

// A few rows at most, so they are made anew.
function showNotes(on) {
  const shown = state.notes.slice(-NOTES_SHOWN).reverse();
  const row = ({ by, text, at }) => element("li", {}, element("span", { className: "quiet mono", textContent: clock(at) }), ` ${by}: ${text}`);
  const empty = element("li", { className: "quiet", textContent: on ? "Nothing yet. Open a second window, and publish." : "" });
  $("notes").replaceChildren(...(shown.length ? shown.map(row) : [empty]));
}

// ---- the rest of the page -------------------------------------------------------------------------------------------

const NOTICES = 5;

export function notice(data) {
  const text = data.title ?? data.message ?? data.text ?? JSON.stringify(data);
  const list = $("notices");
  list.querySelector(".empty")?.remove();
  list.prepend(element("li", {}, element("span", { className: "quiet mono", textContent: clock(data.timestamp ?? Date.now()) }), ` ${text}`));
  while (list.children.length > NOTICES) list.lastChild.remove();
}

export const emptyNotices = () => $("notices").replaceChildren(element("li", { className: "empty quiet", textContent: "Nothing yet." }));

export function showUsers({ users, user }) {
  const select = $("user");
  select.replaceChildren(...users.map(({ id, name }) => element("option", { value: id, textContent: name ?? id })));
  select.value = user.id;
  select.disabled = false;
  showOther(users.find(({ id }) => id !== user.id));
}

// A browser has one cookie for one name of a server, and this one has two names: under the other one is somebody else.
function showOther({ id, name }) {
  const { hostname, port } = location;
  const other = { localhost: "127.0.0.1", "127.0.0.1": "localhost" }[hostname];
  const link = $("other");
  link.hidden = !other;
  link.href = `http://${other}:${port}/?as=${encodeURIComponent(id)}`;
  say(link, `Come in as ${name ?? id} too`);
}

const THEMES = ["auto", "light", "dark"];

export function theme(choice) {
  document.documentElement.dataset.theme = choice;
  say($("theme"), `Theme: ${choice}`);
  remembered("theme", choice);
}

export const nextTheme = () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);

// Kept over visits. A browser that keeps nothing still has a page.
export function remembered(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch {
    // It keeps nothing.
  }
  return value;
}
