// @ts-check
/**
 * Sends one stream of audio and loses none of it silently.
 *
 * Frames are kept until the server acknowledges them. After a lost connection the stream is resumed from where the
 * server says it is. What is kept is bounded to KEPT_S; beyond that the oldest goes, and the server, seeing a jump in
 * `first_sample`, reports the hole to everybody as a `gap`.
 */

import { Connection, socketUrl } from "./connection.js";
import { NOT_WORTH_RETRYING } from "./problems.js";

/** @typedef {import("./captions.js").Message} Message */
/** @typedef {import("./feed.js").LinkState} LinkState */
/**
 * @typedef {{sample_rate_hz: number, channels: number, encoding: "s16le", layout: "auto",
 *   geometry_m?: number[][]}} AudioFormat
 */
/** @typedef {{firstSample: number, samples: number, pcm: Int16Array}} Frame interleaved samples of all channels */

export const PROTOCOL_VERSION = 1;

/** Audio kept for a resume. */
const KEPT_S = 30;

/** The browser's own send buffer may hold this much; more stays in our bounded queue. */
const IN_FLIGHT_S = 2;

/** A server that says nothing for so long while audio goes to it is gone, whatever TCP thinks. */
const SILENCE_MS = 15_000;

/** The server may see our old connection die later than we do, and meanwhile call the session taken (4409). */
const TAKEN_TRIES = 8;

const HEADER_BYTES = 12;
const SAMPLE_BYTES = 2;

/**
 * A frame as it goes over the wire (server/protocol.py).
 * @param {number} frameSeq @param {Frame} frame @param {number} channels
 * @param {number} skip samples of the frame that the server has already
 * @returns {ArrayBuffer}
 */
export function packFrame(frameSeq, frame, channels, skip = 0) {
  const pcm = frame.pcm.subarray(skip * channels);
  const packet = new ArrayBuffer(HEADER_BYTES + pcm.length * SAMPLE_BYTES);
  const view = new DataView(packet);
  view.setUint32(0, frameSeq >>> 0, true);
  view.setBigUint64(4, BigInt(frame.firstSample + skip), true);
  // Every browser runs on little-endian machines; the typed array's own order is s16le.
  new Int16Array(packet, HEADER_BYTES).set(pcm);
  return packet;
}

export class Uplink {
  /**
   * @param {{audio: AudioFormat, title: string, vocabulary: string[]}} start
   * @param {object} handlers
   * @param {(sessionId: string) => void} handlers.started once, when the session has its id
   * @param {(message: Message) => void} handlers.message everything else, for levels and the like
   * @param {(state: LinkState) => void} handlers.state
   * @param {(error: Message) => void} handlers.refused
   */
  constructor(start, handlers) {
    this._start = start;
    this._handlers = handlers;
    this._sessionId = "";
    this._resumeToken = "";
    /** Not acknowledged yet, oldest first. @type {Frame[]} */
    this._frames = [];
    /** How many of them went out on this connection. */
    this._sent = 0;
    this._frameSeq = 0;
    this._nextAckedSeq = 0;
    /** What the server has: frames before it are never sent again. */
    this._received = 0;
    this._ready = false;
    this._ending = false;
    this._endSent = false;
    this._ended = false;
    this._takenTries = 0;
    this._lastHeardMs = 0;
    /** @type {Message | null} */
    this._error = null;
    this._connection = new Connection({
      url: () => socketUrl("v1/stream"),
      opened: (socket) => this._opened(socket),
      received: (message) => this._receivedMessage(message),
      closed: (code) => this._closed(code),
    });
    handlers.state("connecting");
    this._connection.open();
    this._watch = window.setInterval(() => this._tick(), 500);
  }

  /** Seconds of audio that wait for the server. */
  get keptSeconds() {
    const samples = this._frames.reduce((sum, frame) => sum + frame.samples, 0);
    return samples / this._start.audio.sample_rate_hz;
  }

  /** @param {Frame} frame */
  send(frame) {
    if (this._ending || this._ended) return;
    this._frames.push(frame);
    while (this.keptSeconds > KEPT_S) this._drop();
    this._pump();
  }

  /** No more audio: everything kept still goes out, then the server finishes the captions. */
  end() {
    this._ending = true;
    this._pump();
  }

  /** Gives up at once. */
  close() {
    clearInterval(this._watch);
    this._ended = true;
    this._connection.stop();
  }

  /** @param {WebSocket} socket */
  _opened(socket) {
    const { audio, title, vocabulary } = this._start;
    /** @type {Record<string, unknown>} */
    const start = { type: "start", protocol: PROTOCOL_VERSION, audio, title, vocabulary };
    if (this._resumeToken) Object.assign(start, { session_id: this._sessionId, resume_token: this._resumeToken });
    this._error = null;
    this._lastHeardMs = performance.now();
    socket.send(JSON.stringify(start));
  }

  /** @param {Message} message */
  _receivedMessage(message) {
    this._lastHeardMs = performance.now();
    switch (message.type) {
      case "started":
        this._begin(message);
        break;
      case "ack":
        this._nextAckedSeq = message.frame_seq + 1;
        this._acknowledge(message.received_samples);
        break;
      case "error":
        this._error = message;
        break;
      case "end":
        this._ended = true;
        break;
      default:
        this._handlers.message(message);
    }
  }

  /** @param {Message} message */
  _begin(message) {
    const first = !this._sessionId;
    this._sessionId = message.session_id;
    this._resumeToken = message.resume_token || this._resumeToken;
    this._takenTries = 0;
    this._connection.worked();
    this._sent = 0;
    this._frameSeq = this._nextAckedSeq; // without a jump, so that a hole in the samples is ours, not the network's
    this._endSent = false;
    this._acknowledge(message.received_samples);
    this._ready = true;
    if (first) this._handlers.started(this._sessionId);
    this._handlers.state("live");
    this._pump();
  }

  /** @param {number} received */
  _acknowledge(received) {
    this._received = Math.max(this._received, received);
    while (this._frames.length && this._frames[0].firstSample + this._frames[0].samples <= received) this._drop();
    this._pump();
  }

  _drop() {
    this._frames.shift();
    this._sent = Math.max(0, this._sent - 1);
  }

  _pump() {
    const socket = this._connection.socket;
    if (!socket || !this._ready) return;
    const { channels, sample_rate_hz: rate } = this._start.audio;
    const most = rate * channels * SAMPLE_BYTES * IN_FLIGHT_S;
    while (this._sent < this._frames.length && socket.bufferedAmount < most) {
      const frame = this._frames[this._sent++];
      const skip = Math.max(0, this._received - frame.firstSample);
      if (skip < frame.samples) socket.send(packFrame(this._frameSeq++, frame, channels, skip));
    }
    if (this._ending && !this._endSent && this._sent === this._frames.length) {
      this._endSent = true;
      socket.send(JSON.stringify({ type: "end" }));
    }
  }

  _tick() {
    this._pump();
    const silent = performance.now() - this._lastHeardMs > SILENCE_MS;
    if (this._connection.socket && silent && this._frames.length) this._connection.abandon();
  }

  /** @param {number} code @returns {boolean | number} */
  _closed(code) {
    this._ready = false;
    const error = this._error;
    // After our `end`: the connection broke while the server was finishing, and it has finished.
    const finished = this._endSent && (code === 4404 || code === 4409);
    if (this._ended || code === 1000 || finished) return this._finish("ended");
    const taken = code === 4409 && this._resumeToken !== "" && this._takenTries++ < TAKEN_TRIES;
    const full = code === 4429 && this._resumeToken !== "";
    if (NOT_WORTH_RETRYING.has(code) && !taken && !full) {
      this._finish("failed");
      this._handlers.refused(error ?? { type: "error", code: String(code) });
      return false;
    }
    this._handlers.state(this._sessionId ? "reconnecting" : "unreachable");
    return error?.retry_after_s ? error.retry_after_s * 1000 : true;
  }

  /** @param {LinkState} state @returns {false} */
  _finish(state) {
    clearInterval(this._watch);
    this._ended = true;
    this._handlers.state(state);
    return false;
  }
}
