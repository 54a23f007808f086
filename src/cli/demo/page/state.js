// What the page knows, as plain data, and the proof that nothing was missed: no element of the page is touched here.

const LOG_LIMIT = 200;
const CURSORS_LIMIT = 5000;

const nothing = () => ({ events: 0, updates: 0, replayed: 0, reconnects: 0, missed: 0, repeated: 0 });

export const state = {
  transport: "sse",
  connection: "connecting",
  reason: "",
  verdict: "none",
  verdicts: {}, // of the channels that the stream carries
  denied: {}, // why the others are not carried, where that was said
  known: [], // channels that were ever asked for
  aliases: {}, // user.ada → user.me
  connectionId: null,
  session: null, // our name for the stream, the same over reconnects and transports
  lastEventId: "",
  jobs: {},
  notes: [], // of the shared document, the newest last
  events: [], // the newest last, at most LOG_LIMIT
  me: null, // {id, name}
  document: null, // at which we are
  members: null, // who is there, by their ids; null before we are told
  mine: {}, // what we said of ourselves that lasts: status, selection
  news: [], // who came and went, the newest last
  moves: 0, // presence:update, too many for the log
  observe: false, // we look on without being there
  tabs: 1, // of us in this browser
  counts: nothing(),
  heartbeatMs: 15_000,
  heardAt: 0,
  ready: false,
};

const cursors = new Set();
const numbers = new Map(); // job → the last update's attempt and number

export function forgetAll() {
  Object.assign(state, { verdicts: {}, denied: {}, known: [], aliases: {}, connectionId: null, lastEventId: "", jobs: {}, notes: [], members: null, news: [], moves: 0 });
  Object.assign(state.counts, nothing());
  cursors.clear();
  numbers.clear();
}

// After a `reset`, a revocation or an unsubscription the page must not go on showing what it once knew.
export function forget(channel) {
  const job = jobOf(channel);
  if (!job) return void (state.notes = []);
  delete state.jobs[job];
  numbers.delete(job);
}

export const jobOf = (channel) => (channel.startsWith("jobs.") ? channel.slice("jobs.".length) : undefined);

export function known(channel) {
  if (!state.known.includes(channel)) state.known.push(channel);
}

export function carried(channel, verdict, requested) {
  if (requested) state.aliases[channel] = requested;
  const name = nameOf(channel);
  known(name);
  delete state.denied[name];
  state.verdicts[name] = verdict;
}

export function refused(channel, code) {
  const name = nameOf(channel);
  known(name);
  delete state.verdicts[name];
  if (code) state.denied[name] = code;
  else delete state.denied[name];
}

export const nameOf = (channel) => state.aliases[channel] ?? channel;

export function remember(entry) {
  state.events.push(entry);
  if (state.events.length > LOG_LIMIT) state.events.shift();
}

// Every logged event has a cursor of its own: one that comes again is a repetition.
export function countCursor(cursor) {
  if (cursors.has(cursor)) state.counts.repeated += 1;
  cursors.add(cursor);
  if (cursors.size > CURSORS_LIMIT) cursors.delete(cursors.values().next().value);
}

// The sample workers number the updates of an attempt without gaps, and attempts too, so a gap is something that we were not
// told. How many the attempt before had left is not known: a worker that was stopped with its server begins a new one.
export function countGap({ jobId, attempt, seq, snapshot }) {
  const last = numbers.get(jobId);
  if (typeof seq !== "number" || (last?.attempt === attempt && seq < last.seq)) return;
  numbers.set(jobId, { attempt, seq });
  if (!last || snapshot) return;
  if (attempt === last.attempt) state.counts.missed += Math.max(0, seq - last.seq - 1);
  else state.counts.missed += seq - 1 + Math.max(0, attempt - last.attempt - 1);
}
