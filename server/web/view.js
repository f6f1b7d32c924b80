// @ts-check
/**
 * Captions on the page.
 *
 * Words keep their elements: a partial that becomes final changes its colour and nothing else, a corrected speaker
 * moves elements instead of writing them again. All text goes through `textContent`.
 */

import { clockText, gapText, runsOf, voiceOf } from "./captions.js";
import { element } from "./dom.js";

/** @typedef {import("./captions.js").Captions} Captions */
/** @typedef {import("./captions.js").Change} Change */
/** @typedef {import("./captions.js").Item} Item */
/** @typedef {import("./captions.js").Speech} Speech */
/** @typedef {import("./captions.js").Run} Run */

/**
 * @typedef {{root: HTMLElement, name: HTMLButtonElement, label: HTMLElement, time: HTMLElement, atOnce: HTMLElement,
 *   text: HTMLElement}} RunView
 */

export class CaptionView {
  /**
   * @param {HTMLElement} list
   * @param {Captions} captions
   * @param {import("./follower.js").Follower} follower
   * @param {(button: HTMLButtonElement, label: string) => void} onRename
   */
  constructor(list, captions, follower, onRename) {
    this._list = list;
    this._captions = captions;
    this._follower = follower;
    this._onRename = onRename;
    /** @type {Map<Item, HTMLElement>} */
    this._roots = new Map();
    /** @type {WeakMap<Speech, {runs: RunView[], words: HTMLElement[], height: number}>} */
    this._parts = new WeakMap();
    /** @type {Set<Item>} */
    this._dirty = new Set();
    this._orderChanged = false;
    this._frame = 0;
    window.addEventListener("resize", () => this.forgetHeights());
  }

  /** @param {Change} change */
  update(change) {
    for (const item of change.items) this._dirty.add(item);
    this._orderChanged ||= change.order;
    if (this._dirty.size || this._orderChanged) {
      this._frame ||= requestAnimationFrame(() => this.draw());
    }
  }

  /** Shows what waits for the next frame. */
  draw() {
    cancelAnimationFrame(this._frame);
    this._frame = 0;
    this._follower.around(() => this._render());
  }

  /** After a rename. */
  updateNames() {
    this._follower.around(() => {
      for (const label of /** @type {NodeListOf<HTMLElement>} */ (this._list.querySelectorAll(".name-label"))) {
        this._writeName(label, label.dataset.speaker ?? "");
      }
    });
  }

  /** Open blocks only grow; another width or text size starts them afresh. */
  forgetHeights() {
    this._follower.around(() => {
      for (const [item, root] of this._roots) {
        if (item.kind !== "speech") continue;
        root.style.minHeight = "";
        const parts = this._parts.get(item);
        if (parts) parts.height = 0;
      }
    });
  }

  _render() {
    if (this._orderChanged) this._arrange();
    this._orderChanged = false;
    for (const item of this._dirty) {
      const root = this._roots.get(item);
      if (!root) continue;
      if (item.kind === "speech") this._renderSpeech(item, root);
      else if (item.kind === "gap") root.textContent = gapText(item);
      this._renderTogether(item, root);
    }
    // Heights in a pass of their own: reading one between two changes would lay out the page each time.
    for (const item of this._dirty) if (item.kind === "speech") this._holdHeight(item);
    this._dirty.clear();
  }

  /** Gives every item its element, in order, and takes away those of items that are gone. */
  _arrange() {
    const { items } = this._captions;
    /** @type {Element | null} */
    let next = null;
    for (let i = items.length - 1; i >= 0; i--) {
      const item = items[i];
      let root = this._roots.get(item);
      if (!root) {
        root = this._create(item);
        this._roots.set(item, root);
        this._dirty.add(item);
      }
      if (root.parentNode !== this._list || root.nextElementSibling !== next) this._list.insertBefore(root, next);
      next = root;
    }
    if (this._roots.size === items.length) return;
    const kept = new Set(items);
    for (const [item, root] of this._roots) {
      if (kept.has(item)) continue;
      root.remove();
      this._roots.delete(item);
    }
  }

  /** @param {Item} item @returns {HTMLElement} */
  _create(item) {
    if (item.kind === "gap") return element("li", { class: "event gap" });
    if (item.kind === "warning") return element("li", { class: "event warning" }, item.text);
    this._parts.set(item, { runs: [], words: [], height: 0 });
    return element("li", { class: "speech" });
  }

  /** @param {Speech} block @param {HTMLElement} root */
  _renderSpeech(block, root) {
    const parts = this._parts.get(block);
    if (!parts) return;
    const words = [...block.words, ...block.tail];
    for (const [i, word] of words.entries()) {
      const span = (parts.words[i] ??= element("span", { class: "word" }));
      const text = `${word.text} `;
      if (span.textContent !== text) span.textContent = text;
      span.classList.toggle("tail", i >= block.words.length);
    }
    for (const span of parts.words.splice(words.length)) span.remove();
    const runs = runsOf(block);
    for (const [i, run] of runs.entries()) {
      const view = (parts.runs[i] ??= this._createRun());
      if (view.root.parentNode !== root) root.append(view.root);
      this._renderRun(view, run, parts.words, words[run.from].startMs);
    }
    for (const { root: old } of parts.runs.splice(runs.length)) old.remove();
    parts.runs[0]?.atOnce.toggleAttribute("hidden", !block.withPrevious);
    root.classList.toggle("open", block.open);
  }

  /** @returns {RunView} */
  _createRun() {
    const label = element("span", { class: "name-label" });
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    const name = /** @type {HTMLButtonElement} */ (element("button", { type: "button", class: "name" }, mark, label));
    const time = element("time");
    const text = element("p", { class: "text" });
    const atOnce = element("span", { hidden: "" }, " · overlap");
    const when = element("span", { class: "when" }, time, atOnce);
    const root = element("div", { class: "run" }, element("div", { class: "who" }, name, when), text);
    name.addEventListener("click", () => {
      if (label.dataset.speaker) this._onRename(name, label.dataset.speaker);
    });
    return { root, name, label, time, atOnce, text };
  }

  /** @param {RunView} view @param {Run} run @param {HTMLElement[]} spans @param {number} startMs */
  _renderRun(view, run, spans, startMs) {
    if (view.label.dataset.speaker !== run.speaker) {
      const { colour, mark } = voiceOf(run.speaker);
      view.root.dataset.voice = String(colour);
      view.root.dataset.mark = String(mark);
      view.label.dataset.speaker = run.speaker;
      view.name.disabled = !run.speaker;
      this._writeName(view.label, run.speaker);
    }
    const time = clockText(startMs);
    if (view.time.textContent !== time) view.time.textContent = time;
    for (let i = run.from; i < run.to; i++) {
      const place = view.text.children[i - run.from] ?? null;
      if (place !== spans[i]) view.text.insertBefore(spans[i], place);
    }
    while (view.text.children.length > run.to - run.from) view.text.lastElementChild?.remove();
  }

  /** @param {HTMLElement} label @param {string} speaker */
  _writeName(label, speaker) {
    const name = this._captions.nameOf(speaker);
    label.textContent = name;
    label.parentElement?.setAttribute("title", speaker ? `Rename ${name}` : "");
  }

  /** @param {Item} item @param {HTMLElement} root */
  _renderTogether(item, root) {
    const { items } = this._captions;
    const at = items.lastIndexOf(item);
    root.classList.toggle("with-previous", item.withPrevious);
    root.classList.toggle("with-next", items[at + 1]?.withPrevious ?? false);
    if (item.kind !== "speech") return;
    const above = items[at - 1];
    const same =
      !item.withPrevious &&
      above?.kind === "speech" &&
      runsOf(above).at(-1)?.speaker === runsOf(item)[0]?.speaker;
    root.classList.toggle("same-speaker", same);
  }

  /** A tail that gets shorter must not pull up what stands below it. @param {Speech} block */
  _holdHeight(block) {
    const root = this._roots.get(block);
    const parts = this._parts.get(block);
    if (!root || !parts) return;
    if (!block.open && this._list.lastElementChild === root) {
      root.style.minHeight = "";
      return;
    }
    if (!block.open) return;
    const height = root.offsetHeight;
    if (height <= parts.height) return;
    parts.height = height;
    root.style.minHeight = `${height}px`;
  }
}
