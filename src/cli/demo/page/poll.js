// Long-poll: plain requests, one after the other, for where nothing can stay open. Between two of them nothing is lost.

import { byHttp } from "/sse.js";
import { refusal } from "/dom.js";

const WAIT_S = 25;
const PAUSE_MS = [700, 2100];
// After an answer that only says who is where: while people move there is always another.
const MOVED_PAUSE_MS = 200;

export function openPoll({ channels, session, cursor, observe }, hear) {
  let request, over = false, isNew = true, pause = Promise.resolve();

  async function run() {
    while (!over) {
      await pause;
      try {
        await ask();
      } catch (error) {
        if (over) return;
        isNew = true;
        hear.lost(error.name === "AbortError" ? "The request was aborted. The page asks again." : "No answer. The page asks again.");
        pause = new Promise((done) => setTimeout(done, PAUSE_MS[0] + Math.random() * (PAUSE_MS[1] - PAUSE_MS[0])));
      }
    }
  }

  async function ask() {
    request = new AbortController();
    const query = new URLSearchParams({ channels: channels.join(","), session, wait: isNew ? "0" : WAIT_S });
    if (observe) query.set("observe", "1");
    if (cursor) query.set("cursor", cursor);
    const response = await fetch(`/v1/poll?${query}`, { signal: request.signal });
    if (!response.ok) return refuse(response);
    tell(await response.json());
  }

  async function refuse(response) {
    const error = refusal(await response.text(), `The server answered ${response.status}.`);
    if ([429, 503].includes(response.status)) throw error;
    over = true;
    hear.failed(error.message, error.code);
  }

  function tell(answer) {
    hear.answered({ channels: answer.verdicts, denied: answer.denied }, isNew);
    isNew = false;
    for (const { event, cursor: at = "", data } of answer.events) {
      hear.event(event, at, data);
      if (event === "end" && !data.reconnect) over = true;
    }
    // The whole answer was heard: the next one begins after it.
    cursor = answer.cursor ?? cursor;
    hear.caughtUp(cursor ?? "");
    const isOnlyMoves = answer.events.length > 0 && answer.events.every(({ event }) => event.startsWith("presence:"));
    if (isOnlyMoves) pause = new Promise((done) => setTimeout(done, MOVED_PAUSE_MS));
  }

  run();
  return {
    close() {
      over = true;
      request?.abort();
    },
    cut: async () => request?.abort(),
    ...byHttp(session),
  };
}
