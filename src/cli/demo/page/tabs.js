// One stream for all tabs of one person in this browser. Over HTTP/1.1 a browser has six connections for an origin, and a
// stream takes one for good: the seventh tab would wait for ever. So one tab, the leader, has the stream and repeats to the
// others what it hears. The browser's lock says who leads: when the leader's tab is gone, whatever ended it, the next in the
// queue gets the lock and goes on from the cursor.
//
// A term begins with the leader's whole state; of other leaders nothing is heard any more. So the tabs can't differ for long,
// and what a leader said with its last breath is neither lost nor told twice: the next one's stream begins where it was itself.

const ANSWER_MS = 10_000;
// So long the others have to hear that all of us are somebody else, before one of them gets the lock and goes on as we were.
const PARTING_MS = 300;

const name = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// `acts` is what a tab can do:
//   lead(), follow()              it has the stream from now on; another one has it
//   state(), adopt(state)         what a leader knows, and what a follower believes
//   hear(name, said)              the leader heard something
//   said(word)                    another tab of this person said something of them
//   visited(user)                 another tab of this browser is this user, and the cookie with it
//   asks: {name(…)}               what a leader does for any tab
export class Tabs {
  #acts;
  #me = name();
  #leader = null;
  #lock = null; // its name
  #queue = null; // ends our wait for the lock
  #release = () => {};
  #hall = null; // of the tabs of this person
  #browser = "BroadcastChannel" in window ? new BroadcastChannel("tidings") : null;
  #asked = new Map(); // id → the two ends of a promise
  #lastId = 0;

  constructor(acts) {
    this.#acts = acts;
    if (this.#browser) this.#browser.onmessage = ({ data }) => acts.visited(data.user);
  }

  get leads() {
    return this.#leader === this.#me;
  }

  // From here on this tab waits to lead; until then it is told.
  join(user) {
    this.#lock = `tidings ${user}`;
    this.#browser?.postMessage({ user });
    // Plain HTTP from another machine is no secure context: there each tab is alone, with a stream of its own.
    if (!navigator.locks || !this.#browser) return this.#lead();
    this.#hall = new BroadcastChannel(this.#lock);
    this.#hall.onmessage = ({ data }) => this.#receive(data);
    this.#wait();
  }

  // A leader that the browser has put to sleep has the lock and says nothing. Whoever notices takes it away.
  take() {
    if (this.leads || !this.#hall) return;
    this.#queue.abort();
    this.#wait(true);
  }

  #wait(steal = false) {
    const queue = (this.#queue = new AbortController());
    const held = () => {
      if (queue.signal.aborted) return undefined;
      this.#lead();
      return new Promise((done) => (this.#release = done));
    };
    const lost = () => {
      if (queue.signal.aborted) return; // by ourselves
      this.#leader = null;
      this.#acts.follow();
      this.#wait();
    };
    navigator.locks.request(this.#lock, steal ? { steal } : { signal: queue.signal }, held).catch(lost);
    if (!steal) this.#hall.postMessage({ type: "hello" });
  }

  // One cookie is for all tabs of a browser, so all of them become somebody else.
  become(user) {
    this.#browser?.postMessage({ user });
    this.#queue?.abort();
    setTimeout(this.#release, PARTING_MS);
    this.#release = () => {};
    this.#hall?.close();
    this.#forgetQuestions("This tab is somebody else’s now.");
    this.#hall = this.#leader = null;
  }

  #lead() {
    this.#forgetQuestions("The tab with the stream was closed. Try again.");
    this.#leader = this.#me;
    this.#acts.lead();
  }

  // How many tabs wait for the lock or have it: the browser counts, also those that crashed.
  async count() {
    if (!navigator.locks || !this.#hall) return 1;
    const { held, pending } = await navigator.locks.query();
    return Math.max(1, [...held, ...pending].filter((lock) => lock.name === this.#lock).length);
  }

  // ---- what a leader says ----

  term() {
    if (this.leads) this.#post({ type: "term", state: this.#acts.state() });
  }

  relay(name, said) {
    if (this.leads) this.#post({ type: "hear", name, said });
  }

  // ---- what any tab says ----

  said(word) {
    this.#post({ type: "said", word });
  }

  // Something that only the tab with the stream can do. `tell` waits for no answer.
  ask(name, ...args) {
    if (this.leads || !this.#hall) return Promise.resolve().then(() => this.#acts.asks[name](...args));
    const id = ++this.#lastId;
    this.#post({ type: "ask", id, name, args });
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      setTimeout(() => this.#answered({ id, error: { message: "The tab with the stream does not answer." } }), ANSWER_MS);
    });
  }

  tell(name, ...args) {
    if (this.leads) this.#acts.asks[name](...args);
    else this.#post({ type: "ask", name, args });
  }

  #post(message) {
    this.#hall?.postMessage({ from: this.#me, ...message });
  }

  #receive(message) {
    const { type, from, to } = message;
    if (type === "hello") return this.term();
    if (type === "said") return this.#acts.said(message.word);
    if (type === "ask") return void (this.leads && this.#answer(message));
    if (type === "answer") return void (to === this.#me && this.#answered(message));
    if (this.leads) return;
    if (type === "term") {
      this.#leader = from;
      this.#acts.adopt(message.state);
    } else if (from === this.#leader) this.#acts.hear(message.name, message.said);
  }

  async #answer({ from, id, name, args }) {
    const answer = { type: "answer", to: from, id };
    try {
      answer.value = await this.#acts.asks[name](...args);
    } catch ({ message, code }) {
      answer.error = { message, code };
    }
    if (id) this.#post(answer);
  }

  #answered({ id, value, error }) {
    const question = this.#asked.get(id);
    this.#asked.delete(id);
    if (error) question?.reject(Object.assign(new Error(error.message), { code: error.code }));
    else question?.resolve(value);
  }

  #forgetQuestions(message) {
    for (const id of [...this.#asked.keys()]) this.#answered({ id, error: { message } });
  }
}
