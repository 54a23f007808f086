// What this tab says of its person. Words are gathered and sent about thirty times a second, one after the other: two requests
// under way might overtake each other, and then the older position would be the last.

const EVERY_MS = 33;
const AGAIN_MS = 300;

// `send(word)` may be a promise. What a stream did not take that isn't there yet (404) is said again, under anything newer.
export function speaker(send) {
  let word = {}, timer = null, isBusy = false, sentAt = 0;

  function schedule(wait = EVERY_MS - (performance.now() - sentAt)) {
    if (timer === null && !isBusy && Object.keys(word).length > 0) timer = setTimeout(flush, Math.max(0, wait));
  }

  async function flush() {
    const saying = word;
    let wait;
    [word, timer, isBusy, sentAt] = [{}, null, true, performance.now()];
    try {
      await send(saying);
    } catch ({ code }) {
      if (code === "CHANNEL_NOT_FOUND" || code === "CONNECTION_LOST") [word, wait] = [{ ...saying, ...word }, AGAIN_MS];
    }
    isBusy = false;
    schedule(wait);
  }

  return {
    say(change) {
      Object.assign(word, change);
      schedule();
    },
    silence() {
      word = {};
    },
  };
}
