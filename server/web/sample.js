// @ts-check
/**
 * The sample meeting: heard through the speakers and sent to the server at the same pace, all its channels.
 */

import { pageUrl } from "./connection.js";

/** @typedef {import("./uplink.js").Frame} Frame */
/** @typedef {{sampleRate: number, channels: number, pcm: Int16Array}} Wav interleaved */

const FRAME_S = 0.04;

/**
 * @param {ArrayBuffer} file a RIFF WAVE file of 16-bit PCM
 * @returns {Wav}
 * @throws {Error} anything else
 */
export function readWav(file) {
  const view = new DataView(file);
  const tag = (/** @type {number} */ at) => String.fromCharCode(...new Uint8Array(file, at, 4));
  if (file.byteLength < 12 || tag(0) !== "RIFF" || tag(8) !== "WAVE") throw new Error("not a WAV file");
  let channels = 0;
  let sampleRate = 0;
  let at = 12;
  while (at + 8 <= file.byteLength) {
    const size = view.getUint32(at + 4, true);
    if (tag(at) === "fmt ") {
      if (view.getUint16(at + 22, true) !== 16) throw new Error("not 16-bit PCM");
      channels = view.getUint16(at + 10, true);
      sampleRate = view.getUint32(at + 12, true);
    } else if (tag(at) === "data") {
      const bytes = Math.min(size, file.byteLength - at - 8);
      const whole = bytes - (bytes % (2 * channels));
      return { sampleRate, channels, pcm: new Int16Array(file.slice(at + 8, at + 8 + whole)) };
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("no audio in the WAV file");
}

/**
 * The meeting for two ears: the first half of the microphones left, the second half right.
 * @param {Wav} wav @returns {[Float32Array, Float32Array]}
 */
export function mixToStereo({ channels, pcm }) {
  const samples = pcm.length / channels;
  const half = Math.max(1, Math.floor(channels / 2));
  const mix = (/** @type {number} */ from, /** @type {number} */ to) => {
    const out = new Float32Array(samples);
    for (let i = 0; i < samples; i++) {
      let sum = 0;
      for (let c = from; c < to; c++) sum += pcm[i * channels + c];
      out[i] = sum / (to - from) / 32768;
    }
    return out;
  };
  const left = mix(0, half);
  return [left, channels > 1 ? mix(half, channels) : left];
}

export class Sample {
  /** @returns {Promise<Sample>} @throws {Error} the server has no sample, or can't be reached */
  static async load() {
    const [audio, about] = await Promise.all([fetch(pageUrl("v1/sample.wav")), fetch(pageUrl("v1/sample.json"))]);
    if (!audio.ok) throw new Error(`sample.wav: ${audio.status}`);
    const { geometry_m: geometry = null } = about.ok ? await about.json() : {};
    return new Sample(readWav(await audio.arrayBuffer()), geometry);
  }

  /** @param {Wav} wav @param {number[][] | null} geometry */
  constructor(wav, geometry) {
    this._wav = wav;
    this.name = "Sample meeting";
    this.channels = wav.channels;
    this.sampleRate = wav.sampleRate;
    this.geometry = geometry;
    this.durationS = wav.pcm.length / wav.channels / wav.sampleRate;
    this._context = new AudioContext();
    this._gain = this._context.createGain();
    this._gain.connect(this._context.destination);
    this._volume = 0.8;
    this._muted = false;
    this._sent = 0;
    this._timer = 0;
    this._startedMs = 0;
    this._startedAt = 0;
  }

  /** @param {number} volume 0..1 */
  set volume(volume) {
    this._volume = volume;
    this._applyVolume();
  }

  set muted(/** @type {boolean} */ muted) {
    this._muted = muted;
    this._applyVolume();
  }

  /** Seconds played. */
  get positionS() {
    return Math.min(this.durationS, this._clock());
  }

  /** @param {(frame: Frame) => void} onFrame @param {() => void} onEnd */
  async start(onFrame, onEnd) {
    const [left, right] = mixToStereo(this._wav);
    const buffer = this._context.createBuffer(2, left.length, this.sampleRate);
    buffer.getChannelData(0).set(left);
    buffer.getChannelData(1).set(right);
    const source = this._context.createBufferSource();
    source.buffer = buffer;
    source.connect(this._gain);
    this._applyVolume();
    // Not awaited: without a sound card it never resolves, and the captions work all the same.
    void this._context.resume();
    this._startedMs = performance.now();
    this._startedAt = this._context.currentTime;
    source.start();
    this._timer = window.setInterval(() => this._sendDue(onFrame, onEnd), FRAME_S * 1000);
  }

  async stop() {
    clearInterval(this._timer);
    if (this._context.state !== "closed") await this._context.close();
  }

  _applyVolume() {
    this._gain.gain.value = this._muted ? 0 : this._volume ** 2; // squared: even steps to the ear
  }

  /** Seconds heard so far; by the wall clock where the sound card stands still. */
  _clock() {
    const wall = (performance.now() - this._startedMs) / 1000;
    const heard = this._context.currentTime - this._startedAt - (this._context.outputLatency || 0);
    return wall - heard > 1 ? wall : Math.max(0, heard);
  }

  /** @param {(frame: Frame) => void} onFrame @param {() => void} onEnd */
  _sendDue(onFrame, onEnd) {
    const { channels, pcm, sampleRate } = this._wav;
    const total = pcm.length / channels;
    const due = Math.min(total, Math.floor(this._clock() * sampleRate));
    const step = Math.round(FRAME_S * sampleRate);
    while (this._sent + step <= due || (due === total && this._sent < total)) {
      const to = Math.min(total, this._sent + step);
      onFrame({
        firstSample: this._sent,
        samples: to - this._sent,
        pcm: pcm.subarray(this._sent * channels, to * channels),
      });
      this._sent = to;
    }
    if (this._sent < total) return;
    clearInterval(this._timer);
    onEnd();
  }
}
