// @ts-check
/**
 * A microphone as frames of audio: raw, all the channels that the device gives, at the audio context's own rate.
 */

/** @typedef {import("./uplink.js").Frame} Frame */

/** The most that the server takes. */
const HIGHEST_RATE_HZ = 48_000;

/** How far the sample count may fall behind the clock (a laptop that slept) before the hole is declared. */
const SLEPT_S = 1.5;

/** Echo and noise cancelling mix channels and erase the second of two talkers. @param {string} deviceId */
function wishes(deviceId) {
  return {
    audio: {
      ...(deviceId ? { deviceId: { exact: deviceId } } : {}),
      channelCount: { ideal: 8 },
      echoCancellation: false,
      noiseSuppression: false,
      autoGainControl: false,
    },
  };
}

/** @returns {Promise<MediaDeviceInfo[]>} microphones; without names until permission was given once */
export async function listMicrophones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter((device) => device.kind === "audioinput" && device.deviceId);
}

/** @param {AudioContext} context @throws {DOMException} `Unreachable`: the file did not come */
async function loadWorklet(context) {
  try {
    await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url).href);
  } catch {
    await context.close();
    throw new DOMException("the capture module did not come", "Unreachable");
  }
}

export class Microphone {
  /**
   * @param {string} deviceId "" for the default
   * @returns {Promise<Microphone>}
   * @throws {DOMException} permission, device or constraint trouble; `InsecureContext` outside https and localhost;
   *   `Unreachable` when the server is gone
   */
  static async open(deviceId) {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new DOMException("needs a secure context", "InsecureContext");
    }
    const stream = await navigator.mediaDevices.getUserMedia(wishes(deviceId));
    try {
      let context = new AudioContext({ latencyHint: "interactive" });
      if (context.sampleRate > HIGHEST_RATE_HZ) {
        await context.close();
        context = new AudioContext({ latencyHint: "interactive", sampleRate: HIGHEST_RATE_HZ });
      }
      await loadWorklet(context);
      return new Microphone(stream, context);
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw error;
    }
  }

  /** @param {MediaStream} stream @param {AudioContext} context */
  constructor(stream, context) {
    this._stream = stream;
    this._context = context;
    const [track] = stream.getAudioTracks();
    this.name = track.label || "Microphone";
    this.channels = track.getSettings().channelCount || 1;
    this.sampleRate = context.sampleRate;
    /** @type {AudioWorkletNode | null} */
    this._node = null;
    this._nextSample = 0;
    this._startedMs = 0;
  }

  /**
   * @param {(frame: Frame) => void} onFrame
   * @param {() => void} onUnplugged
   */
  async start(onFrame, onUnplugged) {
    const source = this._context.createMediaStreamSource(this._stream);
    // Fixed count: "discrete" keeps channels as they are instead of mixing them to a speaker layout.
    this._node = new AudioWorkletNode(this._context, "capture", {
      channelCount: this.channels,
      channelCountMode: "explicit",
      channelInterpretation: "discrete",
    });
    this._node.port.onmessage = ({ data }) => onFrame(this._frame(data));
    source.connect(this._node);
    // Its output is silence; without a destination some browsers never run the node.
    this._node.connect(this._context.destination);
    this._stream.getAudioTracks()[0].onended = onUnplugged;
    await this._context.resume();
  }

  async stop() {
    if (this._node) this._node.port.onmessage = null;
    for (const track of this._stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    if (this._context.state !== "closed") await this._context.close();
  }

  /** @param {Int16Array} pcm @returns {Frame} */
  _frame(pcm) {
    const samples = pcm.length / this.channels;
    const now = performance.now();
    this._startedMs ||= now - (samples / this.sampleRate) * 1000;
    const due = Math.round(((now - this._startedMs) / 1000) * this.sampleRate) - samples;
    if (due - this._nextSample > SLEPT_S * this.sampleRate) this._nextSample = due;
    const firstSample = this._nextSample;
    this._nextSample += samples;
    return { firstSample, samples, pcm };
  }
}
