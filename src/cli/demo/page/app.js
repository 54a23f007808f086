// The demo page. Everything it knows arrives over the browser's own means; there is no client library, so that what works
// here works in any page. This file ties the parts together: events come in, state changes, panels show it.

import { $, clock, request, say } from "/dom.js";
import { showAllJobs, showCards, showJob } from "/cards.js";
import { giveUpPlace, hears, keepPlace, leaveHere, placeHere, presenceOf, said, sayAgain, sayTabs, showHere } from "/here.js";
import { emptyLog, loadCommands, record, showCommands, showJobChoices, togglePause } from "/log.js";
import {
  connection, emptyNotices, nextTheme, notice, remembered, showChannels, showDocument, showFacts, showHeard, showTransport,
  showUsers, theme, verdict,
} from "/panels.js";
import { carried, countCursor, countGap, forget, forgetAll, jobOf, known, refused, state } from "/state.js";
import { Stream } from "/stream.js";
import { Tabs } from "/tabs.js";

const DOCS = "docs.";
// What carries a cursor without being in the log: it says where the stream is.
const POSITIONS = ["ready", "heartbeat", "subscribed"];
let visit = null; // the answer of POST /demo/session
let wanted; // whose session was asked for last
let attempt = 0; // how many sessions were asked for; an answer to an older question is ignored
let notesSaid = 0;

// ---- the stream, in whichever tab it is ------------------------------------------------------------------------------

const hearing = {
  connected(data) {
    state.connectionId = data.connectionId;
    state.heartbeatMs = data.heartbeatMs ?? state.heartbeatMs;
    opened(data);
  },
  // Each poll says what it carries. The first of them is what `connected` is to a stream.
  answered(answer, isNew) {
    state.heardAt = Date.now();
    if (!isNew) return carry(answer);
    state.connectionId = null;
    opened(answer);
  },
  caughtUp(cursor) {
    moved(cursor);
    ready();
    showFacts();
  },
  event: receive,
  lost(reason) {
    state.ready = false;
    if (state.connection !== "reconnecting") connection("reconnecting", reason);
  },
};

// What the tab with the stream hears, the others hear from it.
const relayed = ([name, hear]) => [name, (...what) => {
  tabs.relay(name, what);
  hear(...what);
}];

const stream = new Stream({
  ...Object.fromEntries(Object.entries(hearing).map(relayed)),
  failed(reason, code) {
    stream.close();
    state.ready = false;
    // The demo makes a new secret at each start: after a restart the old cookie is worth nothing, a new session is.
    if (code === "AUTH_REQUIRED" && state.lastEventId) return start(visit.user.id);
    connection("ended", reason);
    tabs.term();
  },
});

const tabs = new Tabs({
  lead: () => (state.session ? open() : begin()),
  follow: () => stream.close(),
  // The log is each tab's own.
  state() {
    const { events: _, ...shared } = state;
    return shared;
  },
  adopt(shared) {
    Object.assign(state, shared);
    connection(state.connection, state.reason);
    verdict(state.verdict);
    showAll();
    showCards(visit.jobs);
    if (!state.members) leaveHere();
  },
  hear: (name, what) => hearing[name]?.(...what),
  said,
  visited(user) {
    if (user !== wanted) become(user);
  },
  asks: {
    edit(wish) {
      if (!stream.isOpen) throw new Error("There is no stream to edit.");
      return stream.edit(wish);
    },
    publish: (channel, data) => stream.publish(channel, data),
    cut: () => stream.cut(state.connectionId),
    say: (document, word) => stream.say(document, word),
    open(wish) {
      Object.assign(state, wish);
      open();
    },
    restart: () => start(visit.user.id),
  },
});

function become(user) {
  giveUpPlace();
  emptyNotices();
  emptyLog();
  verdict("none");
  Object.assign(state, { session: null, mine: {}, observe: false });
  tabs.become(user);
  start(user);
}

async function start(user) {
  const mine = ++attempt;
  wanted = user;
  stream.close();
  forgetAll();
  showAll();
  connection("connecting", "Asking for a session.");
  try {
    const answer = await request("POST", "/demo/session", user ? { user } : {});
    if (mine !== attempt) return;
    visit = answer;
  } catch (error) {
    if (mine !== attempt) return;
    connection("ended", `No session: ${error.message}`);
    return tabs.term();
  }
  wanted = visit.user.id;
  Object.assign(state, { me: visit.user, document: visit.shared.id });
  remembered("user", visit.user.id);
  showUsers(visit);
  showCards(visit.jobs);
  showJobChoices(visit.jobs);
  if (tabs.leads) begin();
  else tabs.join(visit.user.id);
}

function begin() {
  state.session = streamName();
  for (const channel of [...firstChannels(), ...visit.documents.map((id) => DOCS + id)]) known(channel);
  open();
}

// The rest is added by its switch.
const firstChannels = () => [...visit.jobs.map((id) => `jobs.${id}`), ...sharedChannels(), "user.me"];
const sharedChannels = () => [DOCS + visit.shared.id, presenceOf(visit.shared.id)];

// Our name for the stream; edits of it outlive its connections.
function streamName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("-").slice(0, 35);
}

function open() {
  connection("connecting", state.lastEventId ? "Going on from the cursor." : "Opening the stream.");
  state.ready = false;
  state.heardAt = Date.now();
  stream.open(state.transport, { channels: firstChannels(), session: state.session, cursor: state.lastEventId, observe: state.observe });
  showAll();
  tabs.term();
}

function choose(wish) {
  if (!visit) return Object.assign(state, wish);
  return attempted("channels-note", () => tabs.ask("open", wish));
}

// A half-open TCP connection looks alive for ever, and so does a tab that sleeps; heartbeats that stay away tell the truth.
function watch() {
  const isSilent = Date.now() - state.heardAt > 3 * state.heartbeatMs;
  if (stream.isOpen && state.connection === "live" && isSilent) {
    open();
    connection("reconnecting", "Nothing was heard for three heartbeats; asking again from the last event id.");
  }
  if (!tabs.leads && document.visibilityState === "visible" && state.connection !== "ended" && state.session && isSilent) tabs.take();
  showHeard();
  tabs.count().then(sayTabs);
  keepPlace();
}

// ---- what arrives ---------------------------------------------------------------------------------------------------

function opened(data) {
  // Every opening but the first of a session is a reconnect, whoever noticed the cut, or a change of the transport.
  if (state.lastEventId) state.counts.reconnects += 1;
  state.ready = false;
  state.counts.replayed = 0;
  carry(data);
  const said = Object.values(state.verdicts);
  verdict(["reset", "resumed"].find((name) => said.includes(name)) ?? "live");
  connection("live", "Catching up.");
  for (const [channel, name] of Object.entries(state.verdicts)) if (name === "reset") leave(channel);
  showAll();
}

function carry({ channels = [], denied = [] }) {
  for (const name of Object.keys(state.verdicts)) delete state.verdicts[name];
  change({ channels, denied });
}

function change({ channels = [], denied = [] }) {
  for (const { channel, requested, verdict: name } of channels) carried(channel, name, requested);
  for (const { channel, code } of denied) {
    refused(channel, code);
    leave(channel);
  }
  showAll();
}

function receive(name, cursor, data) {
  state.heardAt = Date.now();
  state.counts.events += 1;
  moved(cursor);
  const isLogged = cursor && !POSITIONS.includes(name);
  if (isLogged) countCursor(cursor);
  if (isLogged && !state.ready && state.verdict === "resumed") state.counts.replayed += 1;
  (handlers[name] ?? hears[name])?.(data);
  if (name === "presence:update") return;
  record({ event: name, id: cursor, data });
  showFacts();
}

function moved(cursor) {
  if (cursor) state.lastEventId = cursor;
}

function ready() {
  state.ready = true;
  if (state.connection !== "live" || state.reason === "Catching up.") connection("live", "Everything up to now has been said.");
  showAllJobs();
}

const handlers = {
  ready() {
    ready();
    if (tabs.leads) sayAgain();
  },
  "job:update"(data) {
    state.counts.updates += 1;
    countGap(data);
    // The data is the whole folded state, so it replaces what the card knew.
    state.jobs[data.jobId] = data;
    showJob(data.jobId);
  },
  "doc:update"(data) {
    state.counts.updates += 1;
    if (data.channel !== DOCS + visit.shared.id) return;
    state.notes.push({ by: String(data.by ?? "somebody"), text: String(data.text ?? ""), n: data.n, at: Date.now() });
    if (state.notes.length > 200) state.notes.shift();
    showDocument(visit.shared);
  },
  notification: notice,
  message: notice,
  reset(data) {
    verdict("reset");
    for (const channel of data.channels ?? []) {
      carried(channel, "reset");
      leave(channel);
    }
    showAll();
  },
  subscribed: ({ channel, verdict: name, requested }) => change({ channels: [{ channel, verdict: name, requested }] }),
  unsubscribed({ channel, code }) {
    refused(channel, code);
    leave(channel);
    showAll();
  },
  problem: (data) => connection("reconnecting", `${data.code}: ${data.message}`),
  end(data) {
    const reason = `The server ended the stream: ${data.reason}.`;
    if (data.reconnect) return connection("reconnecting", reason);
    stream.close();
    connection("ended", reason);
  },
  "token:expiring": (data) => connection("live", `The session ends at ${clock(data.expiresAt)}.`),
};

// What may not be seen any more, or may have been missed, is not shown any more.
function leave(channel) {
  if (jobOf(channel) !== undefined || channel === DOCS + visit.shared.id) forget(channel);
  // After a reset the new state says who came and went.
  if (channel === presenceOf(visit.shared.id) && !(channel in state.verdicts)) leaveHere();
}

function showAll() {
  showChannels(edit);
  showAllJobs();
  for (const channel of state.known) showJob(jobOf(channel));
  if (visit) showDocument(visit.shared);
  showTransport();
  showHere();
  showFacts();
}

// ---- what people do -------------------------------------------------------------------------------------------------

// Says beside the thing why it did not work, instead of in a dialog.
async function attempted(note, work) {
  say($(note), "");
  try {
    await work();
  } catch (error) {
    say($(note), error.message);
    showAll();
  }
}

function edit(name, wanted) {
  known(name);
  return attempted("channels-note", async () => {
    const answer = await tabs.ask("edit", wanted ? { subscribe: [name] } : { unsubscribe: [name] });
    if (wanted) change(answer);
    else handlers.unsubscribed({ channel: name });
  });
}

function addChannel(event) {
  event.preventDefault();
  const field = event.target.elements.name;
  const name = field.value.trim();
  if (!name) return;
  field.value = "";
  edit(name, true);
}

// The page only changes the row. That the stream loses the channel is what the service makes of it.
const changeRole = () => attempted("document-note", async () => {
  const channel = DOCS + visit.shared.id;
  if (!(channel in state.denied)) return request("DELETE", "/demo/role");
  await request("PUT", "/demo/role");
  // A “no” is remembered for up to two seconds, or until the new row is announced. So the first try may be too early.
  for (let tries = 0; tries < 8 && !(channel in state.verdicts); tries += 1) {
    if (tries > 0) await new Promise((done) => setTimeout(done, 300));
    for (const name of sharedChannels()) await edit(name, true);
  }
});

function publishNote(event) {
  event.preventDefault();
  const field = event.target.elements.text;
  const text = field.value.trim();
  if (!text) return;
  attempted("document-note", async () => {
    await tabs.ask("publish", DOCS + visit.shared.id, { text, by: visit.user.name, n: ++notesSaid });
    field.value = "";
  });
}

function cutOrOpen() {
  if (state.connection === "ended" && !visit) return start();
  attempted("channels-note", () => tabs.ask(state.connection === "ended" ? "restart" : "cut"));
}

// ---- beginning ------------------------------------------------------------------------------------------------------

$("cut").addEventListener("click", cutOrOpen);
$("user").addEventListener("change", (event) => {
  // The address would bring the one back as whom one came.
  history.replaceState(null, "", "/");
  become(event.target.value);
});
$("transport").addEventListener("change", (event) => choose({ transport: event.target.value }));
$("observe").addEventListener("change", (event) => choose({ observe: event.target.checked }));
$("theme").addEventListener("click", nextTheme);
$("pause").addEventListener("click", togglePause);
$("add-channel").addEventListener("submit", addChannel);
$("role").addEventListener("click", changeRole);
$("note").addEventListener("submit", publishNote);
$("publish").addEventListener("input", showCommands);
$("publish").addEventListener("submit", (event) => event.preventDefault());

// For people with the developer tools open, and for the browser test.
window.tidings = { state, tabs };
theme(remembered("theme") ?? "auto");
emptyNotices();
placeHere(tabs);
setInterval(watch, 1000);
// A page that the browser had put aside knows nothing of what its lock and its stream have become.
addEventListener("pagehide", giveUpPlace);
addEventListener("pageshow", (event) => event.persisted && location.reload());
start(new URLSearchParams(location.search).get("as") ?? remembered("user") ?? undefined);
loadCommands();
