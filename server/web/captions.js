// @ts-check
/**
 * What is known of a session, built from the server's messages.
 *
 * Pure state: no DOM, no sockets, no clock. Every message of a session may be applied in order, and again after a
 * reconnect: a durable message that was applied before changes nothing.
 */

/** @typedef {{text: string, startMs: number, endMs: number, speaker: string, id: number}} Word */
/**
 * Words of one turn in one place of the page. A turn is one block, unless it goes on after somebody else's whole
 * turn: then a new block begins, so that what is said last also stands last.
 * @typedef {{kind: "speech", key: string, turn: number, startMs: number, words: Word[], tail: Word[], open: boolean,
 *   withPrevious: boolean, groupEndMs: number}} Speech
 */
/**
 * @typedef {{kind: "gap", key: string, startMs: number, endMs: number, reason: string, withPrevious: boolean}} Gap
 */
/**
 * @typedef {{kind: "warning", key: string, startMs: number, code: string, text: string, channel: number,
 *   withPrevious: boolean}} Warning
 */
/** `withPrevious`: said, or happened, while the item above was still spoken. @typedef {Speech | Gap | Warning} Item */
/** @typedef {{speaker: string, from: number, to: number}} Run words from..to-1 of a block, one speaker's */
/**
 * What a message changed. `order`: items were added or removed. `session`: title, state or names. `repeated`: the
 * message was applied before, so that nothing changed.
 * @typedef {{items: Set<Item>, order: boolean, session: boolean, levels: boolean, repeated: boolean}} Change
 */
/** @typedef {{decibels: number[], dead: number[], layout: string}} Levels */
/** @typedef {{type: string, [field: string]: any}} Message */

/** Kept in the caption stream, each with a `seq` of its own (server/protocol.py, DURABLE). */
const DURABLE = new Set(["final", "revision", "speaker", "speaker_name", "gap", "warning", "end"]);

/**
 * Shorter overlaps are the recogniser's uncertainty about word edges, not two people at once; unless most of a short
 * remark falls into somebody else's turn.
 */
const OVERLAP_MS = 300;

/** Holes that touch are one hole to a reader. */
const SAME_GAP_MS = 100;

/** Colours and marks that the page has; further speakers repeat a colour with another mark. */
export const VOICES = 8;

/** @param {string} label @returns {{colour: number, mark: number}} */
export function voiceOf(label) {
  const number = Number(label.slice(1)) - 1;
  if (!label || !(number >= 0)) return { colour: -1, mark: -1 };
  return { colour: number % VOICES, mark: (number + Math.floor(number / VOICES)) % VOICES };
}

/**
 * Words of a block split where the speaker changes. Words whose speaker is not known yet belong to whoever speaks
 * around them, because a turn is one person's until something says otherwise.
 * @param {Speech} block @returns {Run[]}
 */
export function runsOf(block) {
  /** @type {Run[]} */
  const runs = [];
  for (const [i, { speaker }] of [...block.words, ...block.tail].entries()) {
    const last = runs.at(-1);
    if (last && (speaker === last.speaker || !speaker || !last.speaker)) {
      last.to = i + 1;
      last.speaker ||= speaker;
    } else {
      runs.push({ speaker, from: i, to: i + 1 });
    }
  }
  return runs;
}

/** @param {number} ms @returns {string} "1:02:03" or "2:03" */
export function clockText(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return s >= 3600
    ? `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`
    : `${Math.floor(s / 60)}:${two(s % 60)}`;
}

/** @param {Gap} gap @returns {string} */
export function gapText(gap) {
  const ms = gap.endMs - gap.startMs;
  const length = ms < 1000 ? "Less than a second" : `${Math.round(ms / 1000)} s`;
  return gap.reason === "lost" ? `[${length} of audio lost]` : `[${length} without captions: ${gap.reason}]`;
}

/** @param {any} source @returns {Word} */
function readWord(source) {
  return {
    text: String(source.text).trim(),
    startMs: source.start_ms,
    endMs: source.end_ms,
    speaker: source.speaker ?? "",
    id: source.word_id ?? -1,
  };
}

/** @param {Speech} block */
function endOf(block) {
  const last = block.tail.at(-1) ?? block.words.at(-1);
  return last ? last.endMs : block.startMs;
}

/** @param {Speech} block */
function isEmpty(block) {
  return block.words.length === 0 && block.tail.length === 0;
}

/** @param {Word | undefined} word */
function endsSentence(word) {
  return word !== undefined && /[.!?…]["'”’)]*$/.test(word.text);
}

export class Captions {
  constructor() {
    this.sessionId = "";
    this.title = "";
    /** @type {"" | "created" | "live" | "ended"} */
    this.state = "";
    this.endReason = "";
    /** @type {Record<string, string>} */
    this.names = {};
    this.lastSeq = 0;
    this.audioMs = 0;
    /** @type {Levels | null} */
    this.levels = null;
    /** In reading order; an item never changes its place among the others. @type {Item[]} */
    this.items = [];
    /** The block that each turn's next words go to. @type {Map<number, Speech>} */
    this._current = new Map();
    /** @type {Map<number, {word: Word, block: Speech}>} */
    this._byId = new Map();
    this._keys = 0;
  }

  /** @param {string} label @returns {string} what to call a speaker */
  nameOf(label) {
    if (!label) return "Someone";
    return (Object.hasOwn(this.names, label) && this.names[label]) || `Speaker ${label.slice(1)}`;
  }

  /** Labels heard so far, S1 first. @returns {string[]} */
  speakers() {
    const labels = new Set([...this._byId.values()].map(({ word }) => word.speaker).filter(Boolean));
    return [...labels].sort((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
  }

  /** @param {Message} message @returns {Change} */
  apply(message) {
    /** @type {Change} */
    const change = { items: new Set(), order: false, session: false, levels: false, repeated: false };
    if (DURABLE.has(message.type)) {
      if (message.seq <= this.lastSeq) return { ...change, repeated: true };
      this.lastSeq = message.seq;
    }
    if (message.audio_ms > this.audioMs) this.audioMs = message.audio_ms;
    this._take(message, change);
    this._markTogether(change);
    return change;
  }

  /** @param {Message} message @param {Change} change */
  _take(message, change) {
    switch (message.type) {
      case "session":
        this.sessionId = message.session_id;
        this.title = message.title;
        this.state = message.state;
        this.names = { ...message.names };
        change.session = true;
        break;
      case "partial":
        this._takePartial(message, change);
        break;
      case "final":
        this._takeFinal(message, change);
        break;
      case "revision":
        this._takeRevision(message, change);
        break;
      case "speaker":
        this._takeSpeaker(message, change);
        break;
      case "speaker_name":
        if (message.name) this.names[message.speaker] = message.name;
        else delete this.names[message.speaker];
        change.session = true;
        break;
      case "gap":
        this._takeGap(message, change);
        break;
      case "warning":
        this._takeWarning(message, change);
        break;
      case "levels":
        this.levels = { decibels: message.levels_db, dead: message.dead_channels, layout: message.layout };
        if (this.state === "created") {
          this.state = "live";
          change.session = true;
        }
        change.levels = true;
        break;
      case "end":
        this.state = "ended";
        this.endReason = message.reason;
        for (const block of this._current.values()) this._close(block, change);
        this._current.clear();
        change.session = true;
        break;
      default: // a newer server may say more than this page understands
    }
  }

  /** @param {Message} message @param {Change} change */
  _takePartial(message, change) {
    const words = message.words.map(readWord);
    if (words.length === 0 && !this._current.has(message.turn)) return;
    const block = words.length ? this._blockFor(message.turn, words[0], change) : this._current.get(message.turn);
    if (!block) return;
    block.tail = words;
    change.items.add(block);
  }

  /** @param {Message} message @param {Change} change */
  _takeFinal(message, change) {
    for (const word of message.words.map(readWord)) {
      const block = this._blockFor(message.turn, word, change);
      block.words.push(word);
      // The rest of the tail stays until the next partial: cleared here, it would flicker.
      block.tail = block.tail.filter((w) => (w.startMs + w.endMs) / 2 > word.endMs);
      if (word.id >= 0) this._byId.set(word.id, { word, block });
      change.items.add(block);
    }
    const block = this._current.get(message.turn);
    if (!message.turn_ended || !block) return;
    this._close(block, change);
    this._current.delete(message.turn);
  }

  /**
   * A turn that has ended, read again: its new words go where the old ones stood. A block that they leave empty goes.
   * @param {Message} message @param {Change} change
   */
  _takeRevision(message, change) {
    const words = message.words.map(readWord);
    /** @type {Speech[]} */
    const blocks = [];
    for (const item of this.items) if (item.kind === "speech" && item.turn === message.turn) blocks.push(item);
    if (blocks.length === 0 && words.length > 0) blocks.push(this._blockFor(message.turn, words[0], change));
    this._current.delete(message.turn);
    for (const block of blocks) {
      for (const { id } of block.words) this._byId.delete(id);
      block.words = [];
    }
    for (const word of words) {
      const middleMs = (word.startMs + word.endMs) / 2;
      const block = blocks.findLast(({ startMs }) => startMs <= middleMs) ?? blocks[0];
      block.words.push(word);
      this._byId.set(word.id, { word, block });
    }
    for (const block of blocks) this._close(block, change);
  }

  /** @param {Message} message @param {Change} change */
  _takeSpeaker(message, change) {
    const last = Math.min(message.last_word_id, message.first_word_id + this._byId.size);
    for (let id = message.first_word_id; id <= last; id++) {
      const entry = this._byId.get(id);
      if (!entry) continue;
      entry.word.speaker = message.speaker;
      change.items.add(entry.block);
    }
  }

  /** @param {Message} message @param {Change} change */
  _takeGap(message, change) {
    const previous = this.items.findLast((item) => item.kind === "gap");
    if (
      previous?.kind === "gap" &&
      previous.reason === message.reason &&
      Math.abs(message.start_ms - previous.endMs) <= SAME_GAP_MS
    ) {
      previous.endMs = message.end_ms;
      change.items.add(previous);
      return;
    }
    const { start_ms: startMs, end_ms: endMs, reason } = message;
    this._insert({ kind: "gap", key: this._key(), startMs, endMs, reason, withPrevious: false }, change);
  }

  /** @param {Message} message @param {Change} change */
  _takeWarning(message, change) {
    const { code, message: text, channel = -1, audio_ms: startMs = this.audioMs } = message;
    const last = this.items.findLast((item) => item.kind === "warning" && item.channel === channel);
    if (last?.kind === "warning" && last.code === code && last.text === text) return; // said before, still true
    this._insert({ kind: "warning", key: this._key(), startMs, code, text, channel, withPrevious: false }, change);
  }

  /**
   * Where a turn's word goes: its block, or a new one when the turn is new or goes on, with a new sentence, after
   * another whole turn.
   * @param {number} turn @param {Word} word @param {Change} change @returns {Speech}
   */
  _blockFor(turn, word, change) {
    const current = this._current.get(turn);
    if (current) {
      if (!endsSentence(current.words.at(-1)) || !this._spokenBetween(current, word)) return current;
      this._close(current, change);
    }
    /** @type {Speech} */
    const block = {
      kind: "speech",
      key: this._key(),
      turn,
      startMs: word.startMs,
      words: [],
      tail: [],
      open: true,
      withPrevious: false,
      groupEndMs: word.endMs,
    };
    this._current.set(turn, block);
    this._insert(block, change);
    return block;
  }

  /** @param {Speech} block @param {Word} word */
  _spokenBetween(block, word) {
    for (let i = this.items.length - 1; i >= 0 && this.items[i] !== block; i--) {
      const later = this.items[i];
      if (later.kind === "speech" && !later.open && later.turn !== block.turn && endOf(later) <= word.startMs) {
        return true;
      }
    }
    return false;
  }

  /** @param {Speech} block @param {Change} change */
  _close(block, change) {
    block.tail = [];
    block.open = false;
    change.items.add(block);
    if (!isEmpty(block)) return;
    this.items.splice(this.items.indexOf(block), 1); // a tail that came to nothing
    change.order = true;
  }

  /** @param {Item} item @param {Change} change */
  _insert(item, change) {
    let at = this.items.length;
    while (at > 0 && this.items[at - 1].startMs > item.startMs) at--;
    this.items.splice(at, 0, item);
    change.items.add(item);
    change.order = true;
  }

  /**
   * Marks blocks during which an earlier neighbour also spoke. Only what follows the first changed item can change.
   * @param {Change} change
   */
  _markTogether(change) {
    if (change.items.size === 0) return;
    let first = this.items.length - 1;
    let left = change.items.size;
    while (first > 0 && left > 0) {
      if (change.items.has(this.items[first])) left--;
      if (left > 0) first--;
    }
    let previous = first - 1;
    while (previous >= 0 && this.items[previous].kind !== "speech") previous--;
    for (let i = Math.max(0, previous + 1); i < this.items.length; i++) {
      const item = this.items[i];
      if (item.kind !== "speech") continue;
      const before = this.items[previous];
      const end = endOf(item);
      const together =
        before?.kind === "speech" &&
        before.turn !== item.turn &&
        Math.min(before.groupEndMs, end) - item.startMs >= Math.min(OVERLAP_MS, (end - item.startMs) / 2);
      item.groupEndMs = together && before.kind === "speech" ? Math.max(before.groupEndMs, end) : end;
      for (let j = Math.max(0, previous + 1); j <= i; j++) this._setTogether(j, together, change);
      previous = i;
    }
  }

  /** @param {number} at @param {boolean} together @param {Change} change */
  _setTogether(at, together, change) {
    const item = this.items[at];
    if (item.withPrevious === together) return;
    item.withPrevious = together;
    change.items.add(item);
    if (at > 0) change.items.add(this.items[at - 1]); // it is now, or no longer, followed by somebody at once
  }

  _key() {
    return String(this._keys++);
  }
}
