// One stream over any of three transports. The transport may change at any time: the cursor and the stream's name go with
// it, so nothing is missed, nothing comes twice, and channels that were added or taken away stay so.

import { openPoll } from "/poll.js";
import { openSse } from "/sse.js";
import { openSocket } from "/ws.js";

const TRANSPORTS = { sse: openSse, ws: openSocket, poll: openPoll };

// `hear` is told what happens:
//   connected({connectionId, channels, denied, heartbeatMs})     a stream is open, and carries this
//   event(name, cursor, data)                                    in order; the cursor is "" if the event has none
//   answered({channels, denied}, isNew), caughtUp(cursor)        before and after the events of one poll
//   lost(why)                                                    the connection is gone, and is being made again
//   failed(why, code)                                            it is gone for good
export class Stream {
  #hear;
  #open = null;
  #opened = 0;

  constructor(hear) {
    this.#hear = hear;
  }

  get isOpen() {
    return this.#open !== null;
  }

  open(transport, { channels, session, cursor, observe }) {
    this.close();
    const mine = this.#opened;
    // What an abandoned transport still says is nobody's business: it comes again on the next one.
    const current = (say) => (...said) => mine === this.#opened && say(...said);
    const hear = Object.fromEntries(Object.entries(this.#hear).map(([name, say]) => [name, current(say)]));
    this.#open = TRANSPORTS[transport]({ channels, session, cursor, observe }, hear);
  }

  close() {
    this.#opened += 1;
    this.#open?.close();
    this.#open = null;
  }

  // Changes what the stream carries: {subscribe: […]} or {unsubscribe: […]}. Answers {channels, denied}.
  edit(change) {
    return this.#open.edit(change);
  }

  publish(channel, data) {
    return this.#open.publish(channel, data);
  }

  // Where its person is. Only a WebSocket has a way for it; for the others there is a route that any tab can use itself.
  say(document, word) {
    return this.#open?.say?.(document, word);
  }

  // Breaks the connection as a network would, and lets the transport come back by itself.
  cut(connectionId) {
    return this.#open.cut(connectionId);
  }
}
