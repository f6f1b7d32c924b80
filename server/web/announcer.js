// @ts-check
/**
 * What a screen reader is told: final words, once, whole sentences where possible, each with its speaker.
 *
 * Pure: takes the session's messages and returns texts. History is not read out; what was missed during a lost
 * connection is.
 */

/** @typedef {import("./captions.js").Captions} Captions */
/** @typedef {import("./captions.js").Message} Message */

/** A turn without punctuation is told in pieces of this many words. */
const LONGEST_WORDS = 24;

export class Announcer {
  /** @param {Captions} captions for the names */
  constructor(captions) {
    this._captions = captions;
    /** Everything up to here was said before this page joined; null until the session is known. */
    this._historySeq = /** @type {number | null} */ (null);
    /** @type {Map<number, {speaker: string, words: string[]}>} */
    this._waiting = new Map();
  }

  /** @param {Message} message a message not heard before @returns {string[]} texts to announce */
  hear(message) {
    if (message.type === "session") this._historySeq ??= message.seq;
    if (message.type === "end") return [...this._waiting.keys()].flatMap((turn) => this._tell(turn));
    if (this._historySeq === null || message.seq <= this._historySeq) return [];
    if (message.type === "gap") return ["Some audio was lost."];
    if (message.type === "warning") return [String(message.message)];
    return message.type === "final" ? this._hearFinal(message) : [];
  }

  /** @param {Message} message @returns {string[]} */
  _hearFinal(message) {
    const told = [];
    for (const { text, speaker } of message.words) {
      let waiting = this._waiting.get(message.turn);
      if (waiting && speaker && waiting.speaker && waiting.speaker !== speaker) {
        told.push(...this._tell(message.turn));
        waiting = undefined;
      }
      waiting ??= { speaker, words: [] };
      waiting.speaker ||= speaker;
      waiting.words.push(text.trim());
      this._waiting.set(message.turn, waiting);
      if (/[.!?…]$/.test(text) || waiting.words.length >= LONGEST_WORDS) told.push(...this._tell(message.turn));
    }
    if (message.turn_ended) told.push(...this._tell(message.turn));
    return told;
  }

  /** @param {number} turn @returns {string[]} */
  _tell(turn) {
    const waiting = this._waiting.get(turn);
    this._waiting.delete(turn);
    return waiting ? [`${this._captions.nameOf(waiting.speaker)}: ${waiting.words.join(" ")}`] : [];
  }
}
