// The slide: pieces that can be selected, by whom they are, and where the pointers are. Positions are in the slide's own
// units, so that they mean the same in every size of window.

import { placeCursors, showCursor, keepCursors } from "/cursors.js";
import { $, element, say } from "/dom.js";
import { isMe } from "/people.js";
import { state } from "/state.js";

export const SLIDE = "slide-1";
const WIDTH = 1600;
const HEIGHT = 900;
let isHere = false; // our own pointer is on the slide of this tab

const pieces = () => document.querySelectorAll("#slide .piece");

// `tell({cursor?, selection?})` is called for what somebody does on the slide.
export function placeSlide(tell) {
  const slide = $("slide");
  $("cursors").dataset.width = WIDTH;
  placeCursors($("cursors"));
  slide.addEventListener("pointermove", (event) => {
    isHere = true;
    const { left, top, width, height } = slide.getBoundingClientRect();
    const at = (from, size, units) => Math.round(((from / size) * units) * 10) / 10;
    tell({ cursor: { x: at(event.clientX - left, width, WIDTH), y: at(event.clientY - top, height, HEIGHT) } });
  });
  slide.addEventListener("pointerleave", () => {
    isHere = false;
    tell({ cursor: null });
  });
  slide.addEventListener("click", ({ target }) => {
    const id = target.closest(".piece")?.dataset.piece;
    tell({ selection: id && id !== state.mine.selection?.elementId ? { slideId: SLIDE, elementId: id } : null });
  });
  slide.addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && state.mine.selection) tell({ selection: null });
  });
}

// Whoever only moves changes nothing else. Our own pointer is drawn only if it is in another tab.
export function showPointer(member) {
  if (member) showCursor(member, !(isMe(member.userId) && isHere));
}

export function showSlide() {
  const members = state.members ?? {};
  keepCursors(members);
  Object.values(members).forEach(showPointer);
  for (const piece of pieces()) {
    const own = state.mine.selection?.elementId === piece.dataset.piece;
    piece.ariaPressed = String(own);
    const others = Object.values(members).filter(({ userId, selection }) =>
      !isMe(userId) && selection?.slideId === SLIDE && selection.elementId === piece.dataset.piece);
    showFrames(piece.querySelector(".frames"), others);
  }
}

function showFrames(list, members) {
  const names = members.map(({ userId }) => userId).join(" ");
  if (list.dataset.users === names) return;
  list.dataset.users = names;
  list.replaceChildren(...members.map(({ name, color }, at) => {
    const frame = element("span", { className: "frame" }, element("span", { className: "frame-name" }));
    say(frame.firstChild, name);
    frame.style.setProperty("--who", color);
    frame.style.setProperty("--at", at);
    return frame;
  }));
}
