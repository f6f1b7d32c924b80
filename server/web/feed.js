// @ts-check
/**
 * Captions of one session, from the server: history first, then live; goes on after the last `seq` it got.
 *
 * The page shows captions from here only, also those of its own audio, so that a reconnect never leaves a hole.
 */

import { Connection, socketUrl } from "./connection.js";
import { NOT_WORTH_RETRYING } from "./problems.js";

/** @typedef {import("./captions.js").Message} Message */
/** @typedef {"connecting" | "unreachable" | "live" | "reconnecting" | "ended" | "failed"} LinkState */

export class Feed {
  /**
   * @param {string} sessionId
   * @param {object} handlers
   * @param {() => number} handlers.lastSeq the last durable message that was applied
   * @param {(message: Message) => void} handlers.message
   * @param {(state: LinkState) => void} handlers.state
   * @param {(error: Message) => void} handlers.refused the server's `error`, or one made of the close code
   */
  constructor(sessionId, { lastSeq, message, state, refused }) {
    this._ended = false;
    this._worked = false;
    /** @type {Message | null} */
    this._error = null;
    const path = `v1/sessions/${encodeURIComponent(sessionId)}/captions`;
    this._connection = new Connection({
      url: () => socketUrl(`${path}?since=${lastSeq()}&revisions=1`),
      opened: () => {
        this._error = null;
      },
      received: (received) => {
        this._connection.worked();
        this._worked = true;
        if (received.type === "error") {
          this._error = received;
          return;
        }
        message(received);
        if (received.type === "session") state("live");
        if (received.type === "end") this._ended = true;
      },
      closed: (code) => {
        if (this._ended || code === 1000) {
          state("ended");
          return false;
        }
        if (NOT_WORTH_RETRYING.has(code)) {
          state("failed");
          refused(this._error ?? { type: "error", code: String(code) });
          return false;
        }
        state(this._worked ? "reconnecting" : "unreachable");
        return this._error?.retry_after_s ? this._error.retry_after_s * 1000 : true;
      },
    });
    state("connecting");
    this._connection.open();
  }

  close() {
    this._connection.stop();
  }
}
