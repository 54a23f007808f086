// The cards of the jobs. The data of an update is the whole folded state, so a card is shown from it alone.

import { $, clock, element, say } from "/dom.js";
import { state } from "/state.js";

const cards = new Map();

export function card(id) {
  if (cards.has(id)) return cards.get(id);
  const part = (tag, className, properties) => element(tag, { className, ...properties });
  const parts = {
    chip: part("span", "chip"),
    percent: part("span", "percent"),
    fill: part("div", "fill"),
    message: part("p", "message"),
    detail: part("p", "detail quiet"),
    attempt: part("span"),
    verdict: part("span"),
    time: part("time", "mono"),
  };
  parts.bar = element("div", { className: "bar", role: "progressbar", ariaLabel: `Progress of ${id}`, ariaValueMin: "0", ariaValueMax: "100" }, parts.fill);
  parts.root = element("li", { className: "job" },
    element("div", { className: "job-head" }, part("h3", "", { textContent: id }), parts.chip),
    element("div", { className: "job-bar" }, parts.bar, parts.percent),
    parts.message, parts.detail,
    element("p", { className: "job-foot quiet" }, parts.verdict, parts.attempt, parts.time));
  cards.set(id, parts);
  $("jobs").append(parts.root);
  showJob(id);
  return parts;
}

export function showJob(id) {
  if (!id) return;
  const { root, chip, percent, bar, fill, message, detail, attempt, verdict, time } = card(id);
  const job = state.jobs[id];
  const denied = state.denied[`jobs.${id}`];
  const left = !denied && state.ready && !(`jobs.${id}` in state.verdicts);
  const status = denied ? "not yours" : left ? "not followed" : job?.status ?? "not known yet";
  const progress = job?.progress;
  root.dataset.tone = denied ? "denied" : tone(job);
  root.classList.toggle("terminal", Boolean(job?.terminal));
  say(chip, status);
  fill.style.transform = `scaleX(${(progress ?? 0) / 100})`;
  bar.ariaValueNow = progress === undefined ? null : String(Math.round(progress));
  bar.ariaValueText = denied ? "not yours" : progress === undefined ? "unknown" : null;
  say(percent, progress === undefined ? "" : `${Math.round(progress)} %`);
  say(message, denied ? deniedText(denied) : left ? "This channel was taken off the stream." : job?.error ? `${job.error.code}: ${job.error.message ?? ""}` : job?.message ?? "");
  say(detail, job?.data ? brief(job.data) : "");
  say(attempt, job?.attempt ? `attempt ${job.attempt}` : "");
  say(verdict, state.verdicts[`jobs.${id}`] ?? "");
  say(time, job?.timestamp ? clock(job.timestamp) : "");
  if (job?.timestamp) time.dateTime = job.timestamp;
}

// Cards that stay are kept in place, so that choosing another user moves nothing.
export function showCards(jobs) {
  for (const [id, { root }] of cards) {
    if (jobs.includes(id)) continue;
    root.remove();
    cards.delete(id);
  }
  jobs.forEach(card);
}

export const showAllJobs = () => cards.forEach((_, id) => showJob(id));

function tone(job) {
  if (!job) return "empty";
  if (["completed", "succeeded"].includes(job.status)) return "good";
  if (["cancelled", "canceled"].includes(job.status)) return "off";
  if (job.terminal) return "bad";
  if (["stalled", "lost", "retrying"].includes(job.status)) return "warn";
  return job.status === "queued" ? "wait" : "busy";
}

const deniedText = (code) =>
  code === "PERMISSION_DENIED" ? "This job belongs to somebody else, or does not exist. The server gives both the same answer." : `Not on this stream: ${code}.`;

const brief = (data) => Object.entries(data).map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ");
