// Who is here, as plain data: no element of the page is touched here.

import { state } from "/state.js";

const NEWS_LIMIT = 50;

export const isMe = (userId) => userId === state.me?.id;

// A state stands for everything before it. Who came and went meanwhile is news, but not to somebody who has just arrived.
export function placeAll(members) {
  const before = state.members;
  state.members = Object.fromEntries(members.map((member) => [member.userId, member]));
  if (!before) return;
  for (const member of members) if (!before[member.userId]) tell(member, "joined");
  for (const [id, member] of Object.entries(before)) if (!state.members[id]) tell(member, "left");
}

export function joined(member) {
  if (!state.members) return;
  state.members[member.userId] = member;
  tell(member, "joined");
}

export function left({ userId, cause }) {
  const member = state.members?.[userId];
  if (!member) return;
  delete state.members[userId];
  tell(member, "left", cause);
}

// Only what has changed is said; `null` is what is not there any more.
export function update({ channel: _, userId, ...change }) {
  const member = state.members?.[userId];
  if (!member) return;
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete member[key];
    else member[key] = value;
  }
}

export const nobody = () => (state.members = null);

function tell(member, what, cause) {
  state.news.push({ userId: member.userId, name: member.name, what, cause });
  if (state.news.length > NEWS_LIMIT) state.news.shift();
}
