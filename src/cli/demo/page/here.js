// Being at the shared document: what is heard of the people there goes to the slide and to their faces, what is done here is
// said, as far as the transport can carry it.

import { $, request } from "/dom.js";
import { joined, left, nobody, placeAll, update } from "/people.js";
import { speaker } from "/say.js";
import { placeSlide, showPointer, showSlide } from "/slide.js";
import { state } from "/state.js";
import { showPeople } from "/who.js";

// Others are told for three seconds that somebody types. We say it again after two, and that it is over after as long.
const TYPING_MS = 2000;
// A tab without the stream is a device of its own by a lease, which it renews well before its end.
const LEASE_MS = 10_000;
const lease = `tab-${Math.random().toString(36).slice(2).padEnd(8, "0")}`;
// A poll that hears of every movement would be nothing but polls.
const BY_POLL_MS = 250;
let tabs, typingSince = null, typingEnds; // null: we do not type
let leasedAt = null, leasedAs = "online";

export const presenceOf = (document) => `presence.${document}`;
const channel = () => presenceOf(state.document);

const voice = speaker(async (word) => {
  if (state.observe || !(channel() in state.verdicts)) return;
  if (state.transport === "ws") return tabs.tell("say", state.document, word);
  // By the stream that all tabs share, so it is no further device and there is no echo.
  const means = state.connectionId ? { connectionId: state.connectionId } : { session: state.session };
  await request("POST", `/v1/presence/${state.document}`, { ...means, ...word });
  if (state.transport === "poll") await new Promise((done) => setTimeout(done, BY_POLL_MS));
});

export function placeHere(allTabs) {
  tabs = allTabs;
  placeSlide(tell);
  const note = $("note").elements.text;
  note.addEventListener("input", () => typing(note.value !== ""));
  note.addEventListener("blur", () => typing(false));
  $("note").addEventListener("submit", () => typing(false));
  $("status").addEventListener("change", ({ target }) => tell({ status: target.value }));
}

function typing(isTyping) {
  clearTimeout(typingEnds);
  const now = performance.now();
  if (isTyping) typingEnds = setTimeout(typing, TYPING_MS, false);
  const isSaid = isTyping ? typingSince !== null && now - typingSince < TYPING_MS : typingSince === null;
  if (isSaid) return;
  typingSince = isTyping ? now : null;
  tell({ typing: isTyping });
}

// ---- what is said ---------------------------------------------------------------------------------------------------

// To the service, and to the other tabs of this person: for the service they are one stream, and it does not echo.
function tell(word) {
  if (state.observe || !state.members) return;
  voice.say(word);
  tabs.said(word);
  said(word);
}

export function said(word) {
  for (const lasting of ["status", "selection"]) if (lasting in word) state.mine[lasting] = word[lasting];
  update({ userId: state.me?.id, ...word });
  show(state.me?.id, word);
}

// A connection that is new knows nothing of what was said by the one before.
export function sayAgain() {
  const { status, selection } = state.mine;
  if (status && status !== "online") voice.say({ status });
  if (selection) voice.say({ selection });
}

export function sayTabs(count) {
  if (count === state.tabs) return;
  state.tabs = count;
  showPeople();
}

// Called every second. The tab with the stream is there by that.
export function keepPlace() {
  const isHere = state.connection === "live" && state.members && !state.observe && channel() in state.verdicts;
  if (!isHere || tabs.leads) return giveUpPlace();
  // The most present device counts, so each has to say what its person is. Said again it would be a sign of life.
  const status = state.mine.status ?? "online";
  const word = status === leasedAs ? {} : { status };
  if (leasedAt !== null && performance.now() - leasedAt < LEASE_MS && status === leasedAs) return;
  [leasedAt, leasedAs] = [performance.now(), status];
  request("POST", `/v1/presence/${state.document}`, { lease, ...word }).catch(() => (leasedAt = null));
}

// Also when the page goes away, where only a beacon is sent.
export function giveUpPlace() {
  if (leasedAt === null) return;
  [leasedAt, leasedAs] = [null, "online"];
  navigator.sendBeacon(`/v1/presence/${state.document}`, JSON.stringify({ lease, leave: true }));
}

// ---- what is heard --------------------------------------------------------------------------------------------------

export const hears = {
  "presence:state": about((data) => placeAll(data.members)),
  "presence:user-joined": about(({ channel: _, ...member }) => joined(member)),
  "presence:user-left": about(left),
  "presence:update": about((data) => {
    state.moves += 1;
    update(data);
  }),
};

function about(act) {
  return (data) => {
    if (data.channel !== channel()) return;
    act(data);
    show(data.userId, data);
  };
}

// A pointer that moves moves nothing else.
function show(userId, change) {
  const keys = Object.keys(change).filter((key) => !["channel", "userId", "lastSeen"].includes(key));
  const member = state.members?.[userId];
  if (member && keys.every((key) => key === "cursor")) showPointer(member);
  else showHere();
}

export function showHere() {
  $("here").dataset.state = state.members ? "on" : "off";
  showPeople();
  showSlide();
}

// Who may not see the document any more does not go on seeing who is there.
export function leaveHere() {
  nobody();
  voice.silence();
  showHere();
}
