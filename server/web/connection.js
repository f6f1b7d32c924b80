// @ts-check
/**
 * A WebSocket that comes back: reconnects with growing pauses until it is told to stop.
 *
 * It knows nothing of captions or audio; its owner decides after every close whether another try makes sense.
 */

const FIRST_PAUSE_MS = 400;
const LONGEST_PAUSE_MS = 8_000;

/** @param {string} path @returns {string} the ws: or wss: address of a path beside this page */
export function socketUrl(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** @param {string} path @returns {string} the http: or https: address of a path beside this page */
export function pageUrl(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * @typedef {object} Owner
 * @property {() => string} url asked before every try
 * @property {(socket: WebSocket) => void} opened
 * @property {(message: import("./captions.js").Message) => void} received
 * @property {(code: number) => boolean | number} closed whether to try again; a number is a pause in ms
 */

export class Connection {
  /** @param {Owner} owner */
  constructor(owner) {
    this._owner = owner;
    /** @type {WebSocket | null} */
    this._socket = null;
    this._failures = 0;
    this._timer = 0;
    this._stopped = false;
    this._onOnline = () => this._retryNow();
  }

  open() {
    window.addEventListener("online", this._onOnline);
    this._connect();
  }

  /** The open socket, or null. @returns {WebSocket | null} */
  get socket() {
    return this._socket?.readyState === WebSocket.OPEN ? this._socket : null;
  }

  /** Tells the backoff that this connection proved good. */
  worked() {
    this._failures = 0;
  }

  /** Closes for good. */
  stop() {
    this._stopped = true;
    clearTimeout(this._timer);
    window.removeEventListener("online", this._onOnline);
    this._socket?.close(1000);
  }

  /** Drops a connection that went silent; the owner's `closed` runs at once, not after the TCP timeout. */
  abandon() {
    const socket = this._socket;
    if (!socket) return;
    this._detach(socket);
    socket.close();
    this._afterClose(1006);
  }

  _connect() {
    this._timer = 0;
    const socket = new WebSocket(this._owner.url());
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this._owner.opened(socket);
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this._owner.received(JSON.parse(data));
    };
    socket.onclose = ({ code }) => {
      this._detach(socket);
      this._afterClose(code);
    };
    this._socket = socket;
  }

  /** @param {WebSocket} socket */
  _detach(socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (this._socket === socket) this._socket = null;
  }

  /** @param {number} code */
  _afterClose(code) {
    if (this._stopped) return;
    const again = this._owner.closed(code);
    if (again === false) {
      this.stop();
      return;
    }
    const grown = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this._failures++);
    // Jitter: after a server restart not every page comes back in the same instant.
    const pause = typeof again === "number" ? again : grown * (0.5 + Math.random() / 2);
    this._timer = window.setTimeout(() => this._connect(), pause);
  }

  _retryNow() {
    if (!this._timer) return;
    clearTimeout(this._timer);
    this._connect();
  }
}
