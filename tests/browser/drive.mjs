// Drives a real Chromium for a test that is written in another language.
//
//   node drive.mjs <chromium> <url> [<width>x<height>] [kept|first-party|blocked] [<fingerprint>]
//
// A fingerprint is that of a public key to trust whoever vouches for it: SHA-256 in base64. The word before it says which cookies the browser keeps: all; none of a site that is not the page's, unless they are
// partitioned (what Chromium calls blocking third-party cookies); or none at all.
//
// Reads one JSON command per line on stdin and prints one JSON line per answer, in order:
//
//   {"eval":"1 + 1"}              → {"value":2}          a promise is awaited; an exception is {"error":"…"}
//   {"reload":true}               → {"reloaded":true}    after the load event
//   {"open":"http://…"}           → {"opened":1}         another tab of the same browser, after its load event
//   {"shut":1}                    → {"shut":1}           that tab is closed, as a person does it
//   {"screenshot":"page.png"}     → {"screenshot":"page.png"}
//   {"emulate":{"dark":true,"width":360,"height":800}} → {"emulated":true}
//   {"close":true}                → {"closed":true}, and the end
//
// Each is for the first tab, or for the one that `"tab":1` names.
//
// The first line that it prints is {"ready":true}, after the page's load event. Chromium is killed and its profile removed
// when the commands end, whatever ended them.
//
// It speaks the DevTools protocol over `--remote-debugging-pipe` (file descriptors 3 and 4, JSON ended by NUL), because
// Node has a WebSocket client of its own only since version 22.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const COMMAND_TIMEOUT_MS = 30_000;
const COOKIES = { kept: { cookie_controls_mode: 0 }, "first-party": { cookie_controls_mode: 1 }, blocked: { default_content_setting_values: { cookies: 2 } } };
const [program, url, size = "1400x1000", cookies = "kept", fingerprint = ""] = process.argv.slice(2);
if (!program || !url || !(cookies in COOKIES)) {
  console.error("usage: node drive.mjs <chromium> <url> [<width>x<height>] [kept|first-party|blocked]");
  process.exit(64);
}

const profile = mkdtempSync(join(tmpdir(), "tidings-chromium-"));
mkdirSync(join(profile, "Default"));
writeFileSync(join(profile, "Default", "Preferences"), JSON.stringify({ profile: COOKIES[cookies] }));
const chromium = spawn(program, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
  ...(fingerprint ? [`--ignore-certificate-errors-spki-list=${fingerprint}`] : []),
  "--remote-debugging-pipe", `--user-data-dir=${profile}`, `--window-size=${size.replace("x", ",")}`, "about:blank",
  // Its own process group, because Chromium is a dozen processes and all of them must go.
], { stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"], detached: true });

let stderr = "";
chromium.stderr.on("data", (chunk) => (stderr = (stderr + chunk).slice(-4096)));
chromium.on("error", (error) => fail(`can't start ${program}: ${error.message}`));
chromium.on("exit", (code) => fail(`chromium ended with ${code}: ${stderr.trim()}`));

let leaving = false;
function leave(code) {
  if (leaving) return;
  leaving = true;
  try {
    process.kill(-chromium.pid, "SIGKILL");
  } catch {
    // It is gone already, or never was.
  }
  rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  process.exit(code);
}
function fail(message) {
  if (leaving) return;
  console.error(message);
  leave(1);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => leave(1));
process.on("uncaughtException", (error) => fail(error.stack));
process.on("unhandledRejection", (error) => fail(String(error?.stack ?? error)));

// ---- the DevTools protocol ----

const [, , , toChromium, fromChromium] = chromium.stdio;
const asked = new Map(); // id → the promise's two ends
const awaited = new Map(); // a tab's session → what resolves at its next load event
let lastId = 0;
let unread = Buffer.alloc(0);

toChromium.on("error", () => {}); // told by "exit"
fromChromium.on("data", (chunk) => {
  unread = Buffer.concat([unread, chunk]);
  for (let end = unread.indexOf(0); end >= 0; end = unread.indexOf(0)) {
    hear(JSON.parse(unread.subarray(0, end).toString()));
    unread = unread.subarray(end + 1);
  }
});

function hear({ id, method, sessionId, result, error }) {
  if (method) return void (method === "Page.loadEventFired" && awaited.get(sessionId)?.());
  const question = asked.get(id);
  asked.delete(id);
  if (error) question?.reject(new Error(error.message));
  else question?.resolve(result);
}

function ask(method, params = {}, sessionId) {
  const id = ++lastId;
  toChromium.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${method}: no answer in ${COMMAND_TIMEOUT_MS} ms`)), COMMAND_TIMEOUT_MS);
    asked.set(id, {
      resolve: (value) => (clearTimeout(timer), resolve(value)),
      reject: (error) => (clearTimeout(timer), reject(error)),
    });
  });
}

const { targetInfos } = await ask("Target.getTargets");
const { targetId } = targetInfos.find(({ type }) => type === "page") ?? (await ask("Target.createTarget", { url: "about:blank" }));
const tabs = [await attach(targetId)];
const wrong = await load(tabs[0], "Page.navigate", { url });
if (wrong) fail(`${url}: ${wrong}`);

async function attach(targetId) {
  const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => ask(method, params, sessionId);
  await page("Page.enable");
  return { targetId, sessionId, page };
}

async function load({ page, sessionId }, method, params) {
  const loaded = new Promise((resolve) => awaited.set(sessionId, resolve));
  const { errorText } = await page(method, params);
  if (!errorText) await loaded;
  return errorText;
}

// ---- the commands ----

async function obey(command) {
  if ("open" in command) {
    const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
    const tab = await attach(targetId);
    const error = await load(tab, "Page.navigate", { url: command.open });
    return error ? { error } : { opened: tabs.push(tab) - 1 };
  }
  if ("shut" in command) {
    await ask("Target.closeTarget", { targetId: tabs[command.shut].targetId });
    return { shut: command.shut };
  }
  const { page } = tabs[command.tab ?? 0];
  if ("reload" in command) {
    await load(tabs[command.tab ?? 0], "Page.reload");
    return { reloaded: true };
  }
  if ("eval" in command) {
    const { result, exceptionDetails } = await page("Runtime.evaluate", { expression: command.eval, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) return { error: exceptionDetails.exception?.description ?? exceptionDetails.text };
    return { value: result.value ?? null };
  }
  if ("screenshot" in command) {
    const { data } = await page("Page.captureScreenshot", { format: "png", captureBeyondViewport: command.full === true });
    writeFileSync(command.screenshot, Buffer.from(data, "base64"));
    return { screenshot: command.screenshot };
  }
  if ("emulate" in command) {
    const { dark, width, height } = command.emulate;
    if (dark !== undefined) {
      await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
    }
    if (width && height) await page("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    return { emulated: true };
  }
  return { error: "a command has eval, reload, open, shut, screenshot, emulate or close" };
}

const answer = (value) => console.log(JSON.stringify(value));
answer({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  if (!line.trim()) continue;
  try {
    const command = JSON.parse(line);
    if (command.close) {
      answer({ closed: true });
      break;
    }
    answer(await obey(command));
  } catch (error) {
    answer({ error: error.message });
  }
}
leave(0);
