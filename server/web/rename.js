// @ts-check
/** Giving a speaker a name: the name turns into a field; Enter keeps, Escape drops. */

import { pageUrl } from "./connection.js";
import { element } from "./dom.js";

/** server/protocol.py, MAX_NAME_CHARS */
const LONGEST_NAME = 64;

/**
 * What the server takes as a name: printable characters, plain spaces (server/protocol.py, check_display_name).
 * @param {string} text @returns {string}
 */
export function cleanName(text) {
  const plain = text.replace(/[\p{C}\p{Z}]+/gu, " ").trim();
  return [...plain].slice(0, LONGEST_NAME).join("").trim();
}

/**
 * @param {HTMLButtonElement} button the name as shown
 * @param {string} current the name given before, "" for none
 * @param {string} fallback what the speaker is called without a name
 * @param {(name: string) => void} onNamed
 */
export function editName(button, current, fallback, onNamed) {
  const field = element("input", {
    class: "name-field",
    type: "text",
    maxlength: String(LONGEST_NAME),
    placeholder: fallback,
    "aria-label": `Name of ${current || fallback}`,
    autocomplete: "off",
    enterkeyhint: "done",
  });
  field.value = current;
  let open = true;
  const close = (/** @type {boolean} */ keep, /** @type {boolean} */ refocus) => {
    if (!open) return;
    open = false;
    const name = cleanName(field.value);
    field.remove();
    button.hidden = false;
    if (refocus) button.focus({ preventScroll: true });
    if (keep && name !== current) onNamed(name);
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") close(true, true);
    if (event.key === "Escape") close(false, true);
    event.stopPropagation();
  });
  field.addEventListener("blur", () => close(true, false));
  button.hidden = true;
  button.before(field);
  field.focus({ preventScroll: true });
  field.select();
}

/**
 * The new name comes back to everybody, this page included, as `speaker_name`.
 * @param {string} sessionId @param {string} label @param {string} name "" takes it away
 * @throws {Error} the server did not take it
 */
export async function sendName(sessionId, label, name) {
  const path = `v1/sessions/${encodeURIComponent(sessionId)}/speakers/${encodeURIComponent(label)}`;
  const answer = await fetch(pageUrl(path), {
    method: "PATCH",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name }),
  });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
}
