// Tables and lines. Whatever comes from outside becomes text, never markup.

export function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (Array.isArray(content)) made.append(...content);
  else if (content instanceof Node) made.append(content);
  else made.textContent = content ?? "";
  return made;
}

export function line(text, kind) {
  return element("p", text, kind ? { class: kind } : {});
}

// `columns`: title and what of a row stands there. A number stands to the right.
export function table(caption, columns, rows) {
  if (rows.length === 0) return line(`${caption}: nothing.`, "quiet");
  const head = element("tr", columns.map(([title]) => element("th", title, { scope: "col" })));
  const cell = (value) => {
    const shown = value === null || value === undefined ? "–" : String(value);
    return element("td", shown, typeof value === "number" ? { class: "number" } : {});
  };
  const body = rows.map((row) => element("tr", columns.map(([, pick]) => cell(pick(row)))));
  const all = element("table", [element("caption", caption), element("thead", head), element("tbody", body)]);
  return element("div", all, { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
}

export function time(ms) {
  return ms ? new Date(ms).toISOString().replace("T", " ").replace("Z", "") : null;
}

export function size(bytes) {
  if (bytes < 10_000) return `${bytes} B`;
  return bytes < 10_000_000 ? `${Math.round(bytes / 1000)} kB` : `${Math.round(bytes / 1_000_000)} MB`;
}
