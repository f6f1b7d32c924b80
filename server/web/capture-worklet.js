// @ts-check
/**
 * Runs on the audio thread: gathers what the microphone gives into frames of interleaved 16-bit samples.
 *
 * Only converts and counts; allocation happens once a frame, not once a block.
 */

const FRAME_S = 0.04;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this._frameSamples = Math.round(sampleRate * FRAME_S);
    this._channels = 0;
    this._filled = 0;
    this._pcm = new Int16Array(0);
  }

  /** @param {Float32Array[][]} inputs @returns {boolean} */
  process([input]) {
    // A node that was never connected, or is disconnected, has no channels.
    if (input.length === 0) return true;
    if (input.length !== this._channels) this._restart(input.length);
    const { length } = input[0];
    for (let i = 0; i < length; i++) {
      const at = this._filled * this._channels;
      for (let c = 0; c < this._channels; c++) {
        const value = Math.max(-1, Math.min(1, input[c][i]));
        this._pcm[at + c] = Math.round(value * 32767);
      }
      if (++this._filled === this._frameSamples) this._deliver();
    }
    return true;
  }

  /** @param {number} channels */
  _restart(channels) {
    this._channels = channels;
    this._pcm = new Int16Array(this._frameSamples * channels);
    this._filled = 0;
  }

  _deliver() {
    this.port.postMessage(this._pcm, [this._pcm.buffer]);
    this._restart(this._channels);
  }
}

registerProcessor("capture", Capture);
