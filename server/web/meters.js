// @ts-check
/** How loud each microphone is, and which one is dead. */

import { element } from "./dom.js";

/** Below this nothing is heard; a meter starts here. */
const QUIETEST_DB = -66;

/** @param {number} decibels dBFS @returns {number} 0..1 of the meter */
export function fillOf(decibels) {
  return Math.max(0, Math.min(1, 1 - decibels / QUIETEST_DB));
}

/** @param {HTMLElement} list @param {import("./captions.js").Levels} levels */
export function showLevels(list, { decibels, dead }) {
  while (list.children.length > decibels.length) list.lastElementChild?.remove();
  while (list.children.length < decibels.length) list.append(createMeter(list.children.length + 1));
  for (const [channel, level] of decibels.entries()) {
    const item = /** @type {HTMLElement} */ (list.children[channel]);
    const meter = /** @type {HTMLElement} */ (item.querySelector(".meter"));
    const isDead = dead.includes(channel);
    item.classList.toggle("dead", isDead);
    meter.style.setProperty("--level", fillOf(level).toFixed(3));
    meter.setAttribute("aria-valuenow", String(Math.round(Math.max(QUIETEST_DB, level))));
    meter.setAttribute("aria-valuetext", isDead ? "no signal" : `${Math.round(level)} decibels`);
    item.title = isDead ? `Microphone ${channel + 1}: no signal` : `Microphone ${channel + 1}`;
  }
}

/** @param {number} number counted from 1 */
function createMeter(number) {
  const meter = element(
    "span",
    {
      class: "meter",
      role: "meter",
      "aria-label": `Microphone ${number}`,
      "aria-valuemin": String(QUIETEST_DB),
      "aria-valuemax": "0",
    },
    element("span", { class: "fill" }),
  );
  return element("li", {}, element("span", { class: "meter-number", "aria-hidden": "true" }, String(number)), meter);
}
