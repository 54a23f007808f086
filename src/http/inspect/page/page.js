// Asks the instances every two seconds, and what an operator wants to know.

import { element, line, size, table, time } from "/inspect/tables.js";

const EVERY_MS = 2000;
const show = (id, ...parts) => document.getElementById(id).replaceChildren(...parts);
const sum = (list, pick) => list.reduce((all, one) => all + pick(one), 0);
let before = new Map();

// Whoever listens to the page hears of a change, and not every two seconds that there is none.
function say(text) {
  const state = document.getElementById("state");
  if (state.textContent !== text) state.textContent = text;
}

async function ask(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  const answer = await fetch(`${path}?${new URLSearchParams(given)}`, { cache: "no-store" });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.details?.field ? `${told.message} (${told.details.field})` : told.message);
  return told;
}

// What happened a second, from two readings of a total.
function rate(now, pick) {
  const then = before.get(now.node);
  const seconds = then ? (now.atMs - then.atMs) / 1000 : 0;
  return seconds > 0 ? Math.round((pick(now.totals) - pick(then.totals)) / seconds) : null;
}

function lag(now) {
  const then = before.get(now.node);
  const events = then ? now.totals.delivered - then.totals.delivered : 0;
  if (events <= 0) return null;
  return `${(((now.totals.deliverySeconds - then.totals.deliverySeconds) / events) * 1000).toFixed(1)} ms`;
}

const standing = (one) => (one.draining ? "leaving" : one.ready ? "ready" : "not ready");

function instances({ instances, complete }) {
  const columns = [
    ["Instance", (one) => one.node],
    ["State", standing],
    ["sse", (one) => one.streams[0]],
    ["ws", (one) => one.streams[1]],
    ["poll", (one) => one.streams[2]],
    ["In /s", (one) => rate(one, (totals) => totals.appended)],
    ["Out /s", (one) => rate(one, (totals) => totals.sent)],
    ["Delivery", lag],
    ["Lagging", (one) => sum(one.lanes, (lane) => lane.lagging)],
    ["Backlog", (one) => `${sum(one.lanes, (l) => l.waitingEvents)} / ${size(sum(one.lanes, (l) => l.waitingBytes))}`],
    ["Refused", (one) => one.totals.refused],
    ["Log", (one) => one.log.head],
    ["Memory of it", (one) => `${one.log.entries} / ${size(one.log.bytes)}`],
    ["Inspector", (one) => (one.inspector ? "on" : "off")],
  ];
  show("instances", table("Each instance", columns, instances));
  say(`${instances.length} instance(s), ${complete ? "all have answered" : "not all have answered"}`);
  channels(instances);
  recent(instances);
  before = new Map(instances.map((one) => [one.node, one]));
}

function channels(instances) {
  const known = new Map();
  for (const { channel, events, streams } of instances.flatMap((one) => one.channels)) {
    const one = known.get(channel) ?? { channel, events: 0, streams: 0 };
    known.set(channel, { channel, events: Math.max(one.events, events), streams: one.streams + streams });
  }
  const busiest = [...known.values()].sort((one, other) => other.events - one.events);
  const columns = [["Channel", (one) => one.channel], ["Events", (one) => one.events], ["Streams", (one) => one.streams]];
  show("channels", table("Channels", columns, busiest));
}

function recent(instances) {
  const kinds = [["resumes", "Resumes and resets"], ["refusals", "Refused"], ["revocations", "Taken away"], ["limits", "Limits that were hit"], ["rejections", "Updates that the log dropped"]];
  const columns = [
    ["When", (note) => time(note.atMs)],
    ["User", (note) => note.user || null],
    ["What", (note) => note.what],
    ["Channels", (note) => note.channels || null],
    ["Connection", (note) => note.connection],
  ];
  const notes = (kind) => instances.flatMap((one) => one.recent?.[kind] ?? []).sort((one, other) => other.atMs - one.atMs);
  show("recent", ...kinds.map(([kind, title]) => table(title, columns, notes(kind).slice(0, 20))));
}

const entries = [
  ["Position", (event) => event.at],
  ["Log", (event) => event.logged],
  ["Channel", (event) => event.channel],
  ["Event", (event) => event.event],
  ["Bytes", (event) => event.bytes],
  ["Accepted", (event) => time(event.acceptedMs)],
  ["Cursor", (event) => event.cursor],
];

const streams = [
  ["Connection", (life) => life.connection],
  ["Transport", (life) => (life.connections > 1 ? `${life.transport} (${life.connections})` : life.transport)],
  ["Session", (life) => life.session],
  ["Opened", (life) => time(life.openedMs)],
  ["Verdict", (life) => [life.verdict, life.reset].filter(Boolean).join(": ")],
  ["Ended", (life) => (life.ended ? `${life.ended}, ${time(life.endedMs)}` : null)],
  ["Carries", (life) => life.channels.join(" ") + (life.moreChannels ? ` and ${life.moreChannels} more` : "")],
  ["Denied", (life) => life.denied.map((pair) => pair.join(": ")).join(" ") || null],
  ["Superseded", (life) => life.superseded],
  ["Waits", (life) => (life.waiting ? `${life.waiting.events} / ${size(life.waiting.bytes)}` : null)],
];

function account(one) {
  const parts = [element("h3", `Instance ${one.node}`), line(one.inspector ? `Remembers since ${time(one.sinceMs)}; its log has come to ${one.head}.` : "INSPECTOR is off there.", "quiet")];
  parts.push(table("Streams", streams, one.lives));
  if (one.more) parts.push(line(`${one.more} more`, "quiet"));
  for (const life of one.lives.filter((life) => life.fates.length)) {
    const columns = [["Position", (fate) => fate.at], ["Outcome", (fate) => fate.outcome], ["Why", (fate) => fate.says]];
    parts.push(table(`What became of it on ${life.connection}`, columns, life.fates));
  }
  const refusals = [["When", (refusal) => time(refusal.atMs)], ["Code", (refusal) => refusal.what], ["Channels", (refusal) => refusal.channels]];
  const dropped = [["When", (note) => time(note.atMs)], ["Whence and why", (note) => note.what]];
  if (one.rejections.length) parts.push(table("Updates that the log dropped", dropped, one.rejections));
  if (one.refusals.length) parts.push(table("Requests that were refused", refusals, one.refusals));
  return parts;
}

async function explain(wish) {
  show("answer");
  const told = wish.channel ? await ask("/inspect/explain", wish) : await ask("/inspect/streams", { user: wish.user });
  const says = (told.says ?? []).map((text) => line(text));
  if (told.permission === "granted") says.push(line("The database grants the channel.", "good"));
  const events = told.events ? [table("Events", entries, told.events)] : [];
  if (!told.complete && !told.says) says.push(line("Not every instance has answered.", "bad"));
  show("says", ...says);
  show("answer", ...events, ...told.instances.flatMap(account));
}

async function tail(wish) {
  const told = await ask("/inspect/log", wish);
  show("log", table(`Newest first; in memory from ${told.log.floor} on`, entries, told.entries));
}

function submit(id, into, act) {
  const form = document.getElementById(id);
  const run = () => act(Object.fromEntries(new FormData(form))).catch((error) => show(into, line(error.message, "bad")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  return { form, run };
}

async function watch() {
  try {
    if (!document.hidden) instances(await ask("/inspect/instances", { recent: "1" }));
  } catch (error) {
    say(`No answer: ${error.message}`);
  }
  setTimeout(watch, EVERY_MS);
}

const why = submit("why", "says", explain);
const log = submit("tail", "log", tail);
for (const [name, value] of new URLSearchParams(location.search)) {
  const field = why.form.elements.namedItem(name);
  if (field) field.value = value;
}
if (why.form.elements.namedItem("user").value) why.run();
log.run();
watch();
