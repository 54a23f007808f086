// Who is here, for people to see: faces, what each is doing, and who came and went.

import { $, element, say } from "/dom.js";
import { isMe } from "/people.js";
import { state } from "/state.js";

const STATUS = { online: "online", away: "away", dnd: "do not disturb", idle: "idle", offline: "offline" };
const faces = new Map(); // user → the parts of their row
let newsTold = null;

export function showPeople() {
  const members = Object.values(state.members ?? {}).sort((a, b) => (a.joinedAt < b.joinedAt ? -1 : 1));
  for (const [id, { root }] of faces) {
    if (state.members?.[id]) continue;
    root.remove();
    faces.delete(id);
  }
  members.forEach(showFace);
  say($("people-count"), state.members ? `${members.length} here` : "");
  showTyping(members);
  showOwn();
  showNews();
}

function showFace(member) {
  const { root, name, detail } = faces.get(member.userId) ?? addFace(member);
  root.dataset.status = member.status;
  root.dataset.typing = String(member.typing === true);
  say(name, isMe(member.userId) ? `${member.name} (you)` : member.name);
  const doing = [STATUS[member.status] ?? member.status];
  if (member.typing) doing.push("typing");
  if (member.devices > 1) doing.push(`${member.devices} devices`);
  say(detail, doing.join(" · "));
}

function addFace({ userId, name, avatar, color }) {
  const face = element("span", { className: "face", textContent: initials(name), ariaHidden: "true" });
  if (avatar) {
    const picture = element("img", { src: avatar, alt: "", referrerPolicy: "no-referrer" });
    picture.addEventListener("load", () => face.replaceChildren(picture)); // until then, and without one, the initials
  }
  const parts = { name: element("span", { className: "person-name" }), detail: element("span", { className: "quiet" }) };
  parts.root = element("li", { className: "person" }, face, element("span", { className: "person-words" }, parts.name, parts.detail));
  parts.root.style.setProperty("--who", color);
  parts.root.dataset.user = userId;
  faces.set(userId, parts);
  $("people").append(parts.root);
  return parts;
}

function initials(name) {
  const words = name.trim().split(/\s+/);
  return [words[0], ...words.slice(1).slice(-1)].map((word) => [...word][0] ?? "").join("").toUpperCase();
}

function showTyping(members) {
  const names = members.filter(({ userId, typing }) => typing && !isMe(userId)).map(({ name }) => name);
  say($("typing"), names.length ? `${names.join(", ")} ${names.length > 1 ? "are" : "is"} typing …` : "");
}

export function showOwn() {
  const me = state.members?.[state.me?.id];
  const tabs = `${state.tabs} ${state.tabs === 1 ? "tab" : "tabs"} of this browser on one stream`;
  const devices = me && me.devices > 1 ? `, ${me.devices} devices in all` : "";
  say($("own"), state.observe ? `You only watch: ${tabs}, and you are not among those who are here.` : `You are one person: ${tabs}${devices}.`);
  for (const input of document.querySelectorAll("#status input")) input.checked = input.value === (state.mine.status ?? "online");
  $("status").disabled = state.observe || !me;
  $("observe").checked = state.observe;
}

// Told to screen readers as well, one at a time.
function showNews() {
  const last = state.news.at(-1);
  if (last === newsTold) return;
  newsTold = last;
  say($("news"), last ? `${last.name} ${last.what}${last.cause && last.cause !== "closed" ? ` (${last.cause})` : ""}.` : "");
}
