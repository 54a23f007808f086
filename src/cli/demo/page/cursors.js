// Pointers of others, moved at the screen's rate. Positions come about thirty times a second; between two of them a pointer
// goes straight on, at the pace at which they come, so that it arrives a little after the next one is due: it never has to wait.

import { element } from "/dom.js";

// Between two positions at the most: what comes after a longer time is the beginning of a new movement.
const PACE_MS_MAX = 120;
const PACE_MS_FIRST = 40;
const LATE = 1.25;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const pointers = new Map(); // user → the pointer
let layer, asked = false;

export function placeCursors(into) {
  layer = into;
  // In another size of the slide all of them are elsewhere on the screen.
  new ResizeObserver(() => {
    for (const pointer of pointers.values()) pointer.isDrawn = false;
    draw();
  }).observe(layer);
}

export function showCursor({ userId, name, color, cursor }, isShown) {
  if (!cursor || !isShown) return removeCursor(userId);
  const now = performance.now();
  const pointer = pointers.get(userId) ?? appear(userId, name, color);
  const { to } = pointer;
  if (to?.x === cursor.x && to?.y === cursor.y) return;
  const since = now - pointer.at;
  const pace = since > PACE_MS_MAX ? PACE_MS_FIRST : 0.7 * pointer.pace + 0.3 * since;
  Object.assign(pointer, { from: to ? position(pointer, now) : cursor, to: cursor, at: now, pace, took: pace * LATE, isDrawn: false });
  draw();
}

export function keepCursors(members) {
  for (const userId of pointers.keys()) if (!members[userId]) removeCursor(userId);
}

function appear(userId, name, color) {
  const root = element("div", { className: "cursor" },
    element("span", { className: "cursor-arrow" }), element("span", { className: "cursor-name", textContent: name }));
  root.style.setProperty("--who", color);
  root.dataset.user = userId;
  layer.append(root);
  const pointer = { root, from: null, to: null, at: 0, pace: PACE_MS_FIRST, took: 0, isDrawn: false };
  pointers.set(userId, pointer);
  return pointer;
}

function removeCursor(userId) {
  pointers.get(userId)?.root.remove();
  pointers.delete(userId);
}

function position({ from, to, at, took }, now) {
  const part = still.matches ? 1 : Math.min((now - at) / took, 1);
  return { x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part };
}

// Asked for only while something moves, and by the browser only while somebody can see it.
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const now = performance.now();
    const scale = layer.clientWidth / layer.dataset.width;
    for (const pointer of pointers.values()) {
      if (pointer.isDrawn) continue;
      const { x, y } = position(pointer, now);
      pointer.root.style.transform = `translate3d(${x * scale}px, ${y * scale}px, 0)`;
      pointer.isDrawn = now - pointer.at >= pointer.took || still.matches;
      if (!pointer.isDrawn) draw();
    }
  });
}
