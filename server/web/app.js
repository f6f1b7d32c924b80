// @ts-check
/** The page's wiring: which button starts what, and where each part's news goes. */

import { Announcer } from "./announcer.js";
import { Captions, clockText } from "./captions.js";
import { byId, element, fieldById } from "./dom.js";
import { Feed } from "./feed.js";
import { Follower } from "./follower.js";
import { showLevels } from "./meters.js";
import { listMicrophones, Microphone } from "./microphone.js";
import { microphoneProblem, refusal, UNREACHABLE } from "./problems.js";
import { cleanName, editName, sendName } from "./rename.js";
import { Sample } from "./sample.js";
import { recentSessions, showFormats, showSessions, viewerLink } from "./sessions.js";
import { applySettings, loadSettings, saveSettings, stepScale } from "./settings.js";
import { Uplink } from "./uplink.js";
import { CaptionView } from "./view.js";
import { cleanVocabulary } from "./vocabulary.js";
import { keepAwake } from "./wake.js";

/** @typedef {import("./captions.js").Message} Message */
/** @typedef {import("./feed.js").LinkState} LinkState */
/** @typedef {import("./problems.js").Problem} Problem */

/** A screen reader has read these long ago. */
const ANNOUNCED_KEPT = 20;

/** @type {Record<string, string>} */
const STATE_TEXTS = {
  idle: "",
  connecting: "Connecting",
  unreachable: "No server",
  waiting: "Waiting for sound",
  live: "Live",
  reconnecting: "Reconnecting",
  finishing: "Finishing",
  ended: "Ended",
  failed: "Not connected",
};

/** @type {Record<string, string>} */
const END_TEXTS = { vanished: "Ended: microphone lost", shutdown: "Ended: server stopped", deleted: "Deleted" };

/** @returns {string} */
function defaultTitle() {
  return `Meeting, ${new Date().toLocaleString([], { weekday: "long", hour: "2-digit", minute: "2-digit" })}`;
}

class App {
  constructor() {
    this.settings = loadSettings();
    this.captions = new Captions();
    this.announcer = new Announcer(this.captions);
    const rows = byId("rows");
    this.follower = new Follower(byId("captions"), rows, byId("jump"));
    this.view = new CaptionView(rows, this.captions, this.follower, (button, label) => this._rename(button, label));
    /** @type {Feed | null} */
    this.feed = null;
    /** @type {Uplink | null} */
    this.uplink = null;
    /** @type {Microphone | Sample | null} */
    this.source = null;
    /** @type {(() => void) | null} */
    this._retry = null;
    /** @type {LinkState | ""} */
    this._uplinkState = "";
    /** @type {LinkState | ""} */
    this._feedState = "";
    this._finishing = false;
  }

  begin() {
    applySettings(this.settings);
    this._wireDisplay();
    this._wireStart();
    this._wireDock();
    this._wireShare();
    byId("problem-close").addEventListener("click", () => this._hideProblem());
    byId("problem-retry").addEventListener("click", () => {
      this._hideProblem();
      this._retry?.();
    });
    const session = new URLSearchParams(location.search).get("session");
    if (session) this._watch(session, "view");
    else void this._showStart();
  }

  // --- reading ---

  /** @param {string} sessionId @param {"live" | "view"} stage */
  _watch(sessionId, stage) {
    this.captions.sessionId = sessionId;
    this._setStage(stage);
    showFormats(byId("formats"), sessionId);
    byId("share-open").hidden = false;
    this.feed = new Feed(sessionId, {
      lastSeq: () => this.captions.lastSeq,
      message: (message) => this._hear(message),
      state: (state) => {
        this._feedState = state;
        this._showState();
      },
      refused: (error) => this._showProblem(refusal(error), null),
    });
  }

  /** @param {Message} message */
  _hear(message) {
    const change = this.captions.apply(message);
    if (change.repeated) return;
    for (const text of this.announcer.hear(message)) this._announce(text);
    this.view.update(change);
    if (change.levels && this.captions.levels) this._showLevels();
    if (change.session) {
      this.view.draw(); // a page that says "Ended" shows no word that may still change
      this.view.updateNames();
      this._showState();
    }
    this._showQuiet();
  }

  /** @param {string} text */
  _announce(text) {
    const log = byId("announced");
    log.append(element("p", {}, text));
    while (log.children.length > ANNOUNCED_KEPT) log.firstElementChild?.remove();
  }

  /** @param {HTMLButtonElement} button @param {string} label */
  _rename(button, label) {
    const fallback = `Speaker ${label.slice(1)}`;
    editName(button, this.captions.names[label] ?? "", fallback, (name) => {
      sendName(this.captions.sessionId, label, name).catch(() =>
        this._showProblem(
          { what: "The name was not saved.", advice: "The server did not take it; try again.", retry: false },
          null,
        ),
      );
    });
  }

  // --- speaking ---

  _startMicrophone() {
    void this._start(
      async () => Microphone.open(fieldById("device").value),
      microphoneProblem,
      () => this._startMicrophone(),
    );
  }

  _startSample() {
    const problem = () => ({ ...UNREACHABLE, advice: "The sample meeting could not be loaded.", retry: true });
    void this._start(() => Sample.load(), problem, () => this._startSample());
  }

  /**
   * @param {() => Promise<Microphone | Sample>} open
   * @param {(error: unknown) => Problem} explain
   * @param {() => void} again
   */
  async _start(open, explain, again) {
    this._hideProblem();
    this._setStarting(true);
    try {
      this.source = await open();
    } catch (error) {
      this._showProblem(explain(error), again);
      return;
    } finally {
      this._setStarting(false);
    }
    this._connect(this.source, again);
    if (this.source instanceof Microphone) {
      void this._refreshDevices(); // names are told only once a microphone was allowed
      await this.source.start(
        (frame) => this.uplink?.send(frame),
        () => {
          this._showProblem(microphoneProblem(new DOMException("gone", "Unplugged")), null);
          this._stop();
        },
      );
    }
  }

  /** @param {Microphone | Sample} source @param {() => void} again */
  _connect(source, again) {
    this._setStage("live");
    this._finishing = false;
    byId("stop").hidden = false;
    const title = fieldById("meeting-title").value || (source instanceof Sample ? source.name : defaultTitle());
    this.uplink = new Uplink(
      {
        audio: {
          sample_rate_hz: source.sampleRate,
          channels: source.channels,
          encoding: "s16le",
          layout: "auto",
          ...(source instanceof Sample && source.geometry ? { geometry_m: source.geometry } : {}),
        },
        title: cleanName(title),
        vocabulary: cleanVocabulary(fieldById("vocabulary").value),
      },
      {
        started: (sessionId) => this._started(sessionId, source),
        message: (message) => {
          if (message.type === "levels") this._hear(message);
        },
        state: (state) => {
          this._uplinkState = state;
          if (state === "ended") this._sourceDone();
          if (state === "unreachable") this._showProblem(UNREACHABLE, null);
          this._showState();
        },
        refused: (error) => {
          this._sourceDone();
          this._showProblem(refusal(error), again);
          if (!this.feed) this._setStage("start");
        },
      },
    );
  }

  /** @param {string} sessionId @param {Microphone | Sample} source */
  _started(sessionId, source) {
    this._hideProblem();
    history.replaceState(null, "", `?session=${encodeURIComponent(sessionId)}`);
    this._watch(sessionId, "live");
    if (!(source instanceof Sample)) return;
    byId("playing").hidden = false;
    source.volume = this.settings.volume / 100;
    void source.start(
      (frame) => this.uplink?.send(frame),
      () => this._stop(),
    );
  }

  _stop() {
    this._finishing = true;
    this._sourceDone();
    this.uplink?.end();
    this._showState();
  }

  _sourceDone() {
    void this.source?.stop();
    this.source = null;
    byId("stop").hidden = true;
    byId("playing").hidden = true;
  }

  // --- what is shown ---

  /** @param {"start" | "live" | "view"} stage */
  _setStage(stage) {
    document.body.dataset.stage = stage;
    byId("welcome").hidden = stage !== "start";
    byId("dock").hidden = stage === "start";
    this._showQuiet();
  }

  _showState() {
    const { captions } = this;
    /** @type {string} */
    let state = this._uplinkState && this._uplinkState !== "ended" ? this._uplinkState : this._feedState || "idle";
    if (this._finishing && state === "live") state = "finishing";
    if (state === "live" && captions.state === "created") state = "waiting";
    if (captions.state === "ended" && state !== "failed") state = "ended";
    const shown = byId("state");
    const text = (state === "ended" && END_TEXTS[captions.endReason]) || STATE_TEXTS[state];
    shown.dataset.state = state;
    if (shown.textContent !== text) shown.textContent = text; // a screen reader repeats what is written again
    keepAwake(state === "live" || state === "reconnecting" || state === "waiting");
    byId("title").textContent = captions.title;
    document.title = captions.title ? `${captions.title} – Crosstalk` : "Crosstalk";
    byId("again").hidden = state !== "ended" && state !== "failed";
    this._showQuiet();
  }

  _showQuiet() {
    const quiet = byId("quiet");
    quiet.hidden = document.body.dataset.stage === "start" || this.captions.items.length > 0;
    const texts = { ended: "Nothing was said in this meeting.", failed: "" };
    const state = byId("state").dataset.state ?? "";
    quiet.textContent = texts[/** @type {keyof typeof texts} */ (state)] ?? "Captions appear here as people speak.";
  }

  _showLevels() {
    if (this.captions.levels) showLevels(byId("meters"), this.captions.levels);
  }

  /** @param {Problem} problem @param {(() => void) | null} again */
  _showProblem({ what, advice, retry }, again) {
    this._retry = again;
    byId("problem-what").textContent = what;
    byId("problem-advice").textContent = advice;
    byId("problem-retry").hidden = !(retry && again);
    byId("problem").hidden = false;
  }

  _hideProblem() {
    byId("problem").hidden = true;
  }

  async _showStart() {
    this._setStage("start");
    void this._refreshDevices();
    const sessions = await recentSessions();
    showSessions(byId("sessions"), sessions);
    byId("recent").hidden = sessions.length === 0;
  }

  /** @param {boolean} starting */
  _setStarting(starting) {
    byId("start-microphone").toggleAttribute("disabled", starting);
    byId("start-sample").toggleAttribute("disabled", starting);
  }

  async _refreshDevices() {
    const devices = (await listMicrophones()).filter(({ deviceId }) => deviceId !== "default");
    const select = fieldById("device");
    select.replaceChildren(
      element("option", { value: "" }, "System default"),
      ...devices.map(({ deviceId, label }, i) => element("option", { value: deviceId }, label || `Microphone ${i + 1}`)),
    );
    const known = devices.some(({ deviceId }) => deviceId === this.settings.deviceId);
    select.value = known ? this.settings.deviceId : "";
  }

  // --- controls ---

  /** @param {Partial<import("./settings.js").Settings>} change */
  _set(change) {
    Object.assign(this.settings, change);
    saveSettings(this.settings);
    this.follower.around(() => applySettings(this.settings));
  }

  _wireStart() {
    byId("start-microphone").addEventListener("click", () => this._startMicrophone());
    byId("start-sample").addEventListener("click", () => this._startSample());
    byId("device").addEventListener("change", () => this._set({ deviceId: fieldById("device").value }));
    navigator.mediaDevices?.addEventListener("devicechange", () => void this._refreshDevices());
  }

  _wireDisplay() {
    const size = byId("size");
    const resize = (/** @type {number} */ steps) => {
      this._set({ scale: stepScale(this.settings.scale, steps) });
      this.view.forgetHeights();
      size.textContent = `${Math.round(this.settings.scale * 100)}%`;
    };
    resize(0);
    byId("smaller").addEventListener("click", () => resize(-1));
    byId("larger").addEventListener("click", () => resize(1));
    for (const radio of byId("themes").querySelectorAll("input")) {
      radio.checked = radio.value === this.settings.theme;
      radio.addEventListener("change", () =>
        this._set({ theme: /** @type {import("./settings.js").Theme} */ (radio.value) }),
      );
    }
    const full = byId("fullscreen");
    full.hidden = !document.fullscreenEnabled;
    full.addEventListener("click", () => {
      if (document.fullscreenElement) void document.exitFullscreen();
      else void document.documentElement.requestFullscreen();
    });
    document.addEventListener("fullscreenchange", () => {
      full.textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
    });
  }

  _wireDock() {
    byId("stop").addEventListener("click", () => this._stop());
    const volume = fieldById("volume");
    volume.value = String(this.settings.volume);
    volume.addEventListener("input", () => {
      this._set({ volume: Number(volume.value) });
      if (this.source instanceof Sample) this.source.volume = this.settings.volume / 100;
    });
    const mute = byId("mute");
    mute.addEventListener("click", () => {
      const muted = mute.getAttribute("aria-pressed") !== "true";
      mute.setAttribute("aria-pressed", String(muted));
      if (this.source instanceof Sample) this.source.muted = muted;
    });
    setInterval(() => this._showProgress(), 500);
  }

  _showProgress() {
    const { source, uplink } = this;
    if (source instanceof Sample) {
      byId("played").textContent = `${clockText(source.positionS * 1000)} / ${clockText(source.durationS * 1000)}`;
    }
    const kept = byId("kept");
    kept.hidden = this._uplinkState !== "reconnecting";
    if (!kept.hidden && uplink) kept.textContent = `${Math.floor(uplink.keptSeconds)} s of sound kept`;
  }

  _wireShare() {
    const said = byId("copy-said");
    byId("copy-link").addEventListener("click", async () => {
      const link = viewerLink(this.captions.sessionId);
      try {
        await navigator.clipboard.writeText(link);
        said.textContent = "Copied.";
      } catch {
        said.textContent = link; // no clipboard outside secure pages: the reader can select it
      }
    });
  }
}

new App().begin();
