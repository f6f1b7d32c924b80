// @ts-check
/** Meetings that this server knows: the list on the start page, and the files of a transcript. */

import { clockText } from "./captions.js";
import { pageUrl } from "./connection.js";
import { element } from "./dom.js";

/** @typedef {{session_id: string, title: string, state: string, created_at: number | string, audio_ms: number}} Summary */

export const FORMATS = [
  ["srt", "SubRip"],
  ["vtt", "WebVTT"],
  ["txt", "Plain text"],
  ["json", "JSON"],
  ["rttm", "RTTM"],
];

const SHOWN = 8;

/** @param {string} sessionId @returns {string} the address under which others can read along */
export function viewerLink(sessionId) {
  return pageUrl(`./?session=${encodeURIComponent(sessionId)}`);
}

/** @returns {Promise<Summary[]>} newest first; none when the server does not tell */
export async function recentSessions() {
  try {
    const answer = await fetch(pageUrl("v1/sessions"));
    if (!answer.ok) return [];
    const { sessions } = await answer.json();
    return sessions
      .sort((/** @type {Summary} */ a, /** @type {Summary} */ b) => timeOf(b) - timeOf(a))
      .slice(0, SHOWN);
  } catch {
    return []; // the page says so when the reader wants to start something
  }
}

/** @param {HTMLElement} list @param {Summary[]} sessions */
export function showSessions(list, sessions) {
  list.replaceChildren(
    ...sessions.map((session) => {
      const link = element(
        "a",
        { href: `?session=${encodeURIComponent(session.session_id)}` },
        element("span", { class: "session-title" }, session.title || session.session_id),
        element(
          "span",
          { class: "session-facts" },
          [session.state === "live" ? "live" : dayText(session), clockText(session.audio_ms)].join(" · "),
        ),
      );
      link.classList.toggle("is-live", session.state === "live");
      return element("li", {}, link);
    }),
  );
}

/** @param {HTMLElement} list @param {string} sessionId */
export function showFormats(list, sessionId) {
  list.replaceChildren(
    ...FORMATS.map(([format, name]) => {
      const href = pageUrl(`v1/sessions/${encodeURIComponent(sessionId)}/transcript?format=${format}`);
      const link = element("a", { href, download: `${sessionId}.${format}` }, name);
      link.append(element("span", { class: "extension" }, `.${format}`));
      return element("li", {}, link);
    }),
  );
}

/** @param {Summary} session @returns {number} ms; the server may give seconds or an ISO date */
function timeOf({ created_at: at }) {
  return typeof at === "number" ? at * 1000 : Date.parse(at) || 0;
}

/** @param {Summary} session */
function dayText(session) {
  const time = timeOf(session);
  if (!time) return session.state;
  return new Date(time).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}
