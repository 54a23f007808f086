// A WebSocket: the same events, and the way back on the same connection. Coming back is the page's own work here.

import { cut, parse } from "/sse.js";
import { refusal } from "/dom.js";

// Between these many milliseconds, at random, so that not all pages come back at once.
const PAUSE_MS = [700, 2100];
// Close codes after which trying again with the same credential is of no use: expired or invalid, nothing left to see.
const FINAL = [4401, 4403];

export function openSocket({ channels, session, cursor, observe }, hear) {
  const asked = new Map(); // id → the two ends of a promise
  let socket, timer, lastId = 0, over = false;

  function connect() {
    const query = new URLSearchParams({ channels: channels.join(","), session });
    if (observe) query.set("observe", "1");
    if (cursor) query.set("last_event_id", cursor);
    socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/ws?${query}`, ["tidings.v1"]);
    let connected = false;
    socket.onmessage = ({ data }) => {
      const message = parse(data);
      connected = true;
      if (message.type === "event") receive(message);
      else answered(message);
    };
    socket.onclose = ({ code }) => {
      for (const { reject } of asked.values()) reject(new Error("The connection is gone; it is not known what became of it."));
      asked.clear();
      if (over) return;
      if (FINAL.includes(code)) return hear.failed(`The server closed the socket with ${code}.`, code === 4401 ? "AUTH_REQUIRED" : "PERMISSION_DENIED");
      hear.lost(connected ? "The connection is gone. The page connects again." : "No connection. The page tries again.");
      if (!connected) explain(query, hear);
      timer = setTimeout(connect, PAUSE_MS[0] + Math.random() * (PAUSE_MS[1] - PAUSE_MS[0]));
    };
  }

  function receive({ event, cursor: at = "", data }) {
    if (at) cursor = at;
    if (event === "connected") hear.connected(data);
    hear.event(event, at, data);
    if (event === "end" && !data.reconnect) over = true;
  }

  function answered({ type, id, ...rest }) {
    const question = asked.get(id);
    asked.delete(id);
    if (type === "error") question?.reject(refusal(JSON.stringify(rest), "The server refused it."));
    else question?.resolve(rest);
  }

  function ask(message) {
    if (socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error("There is no connection at the moment."));
    const id = ++lastId;
    socket.send(JSON.stringify({ ...message, id }));
    return new Promise((resolve, reject) => asked.set(id, { resolve, reject }));
  }

  connect();
  return {
    close() {
      over = true;
      clearTimeout(timer);
      socket.close(1000);
    },
    edit: ({ subscribe, unsubscribe }) =>
      ask(subscribe ? { type: "subscribe", channels: subscribe } : { type: "unsubscribe", channels: unsubscribe }),
    publish: (channel, data) => ask({ type: "publish", channel, event: "doc:update", data }),
    say(document, word) {
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "presence", documentId: document, ...word }));
    },
    cut,
  };
}

// A page can't read why a handshake failed. The same question over HTTP says it, and only a refused credential is final.
async function explain(query, hear) {
  try {
    const answer = await fetch(`/v1/events?${query}`, { headers: { Accept: "application/json" } });
    if (answer.status !== 401) return;
    const error = refusal(await answer.text(), "The server refused the socket.");
    hear.failed(error.message, error.code);
  } catch {
    // The network is gone; the next try tells.
  }
}
