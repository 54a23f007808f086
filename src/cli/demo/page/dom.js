// Helpers for the page. Text from the server is only ever set as textContent.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Unchanged text is left alone, so that a screen reader is not told the same thing twice.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function clock(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

// Cookies say who we are. A refusal is thrown as the service's own error object says it.
export async function request(method, url, body) {
  const options = { method, headers: { "Content-Type": "application/json" } };
  if (body !== undefined) options.body = JSON.stringify(body);
  const answer = await fetch(url, options);
  const said = await answer.text();
  if (!answer.ok) throw refusal(said, `${url} answered ${answer.status}.`);
  return said ? JSON.parse(said) : null;
}

export function refusal(text, otherwise) {
  let error;
  try {
    error = JSON.parse(text);
  } catch {
    // Whatever stands between us and the service answered.
  }
  return Object.assign(new Error(error?.code ? `${error.code}: ${error.message}` : otherwise), { code: error?.code });
}
