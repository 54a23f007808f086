// The browser's own EventSource, bare: it reconnects by itself and says where it was. What works here works in any page.

import { refusal, request } from "/dom.js";

// An EventSource hears only the names that it is told.
const EVENTS = [
  "connected", "ready", "job:update", "doc:update", "notification", "subscribed", "unsubscribed", "reset", "heartbeat",
  "presence:state", "presence:user-joined", "presence:user-left", "presence:update", "token:expiring", "problem", "end", "message",
];

export function openSse({ channels, session, cursor, observe }, hear) {
  const query = new URLSearchParams({ channels: channels.join(","), session });
  if (observe) query.set("observe", "1");
  if (cursor) query.set("last_event_id", cursor);
  const url = `/v1/events?${query}`;
  const source = new EventSource(url);
  let last = "";
  const receive = (name) => (event) => {
    const data = parse(event.data);
    // The browser repeats the last id on events that carry none; only a new one says something.
    const fresh = event.lastEventId === last ? "" : event.lastEventId;
    last = event.lastEventId;
    if (name === "connected") hear.connected(data);
    hear.event(name, fresh, data);
    if (name === "end" && !data.reconnect) source.close();
  };
  for (const name of EVENTS) source.addEventListener(name, receive(name));
  source.onerror = () => {
    if (source.readyState === EventSource.CONNECTING) hear.lost("The connection is gone. The browser tries again by itself.");
    else explain(url, hear);
  };
  return { close: () => source.close(), cut, ...byHttp(session) };
}

// An EventSource that failed can't say why. The same URL, asked for JSON, can.
async function explain(url, hear) {
  try {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    const error = refusal(await answer.text(), "The server refused the stream.");
    hear.failed(error.message, error.code);
  } catch {
    hear.failed("The server does not answer.");
  }
}

// A stream without a way back is edited through any instance by the name that we gave it.
export const byHttp = (session) => ({
  edit: (change) => request("PATCH", `/v1/streams/${session}`, change),
  publish: (channel, data) => request("POST", "/v1/publish", { channel, data }),
});

export const cut = (connectionId) => request("POST", "/demo/cut", { connectionId });

export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { unreadable: text };
  }
}
