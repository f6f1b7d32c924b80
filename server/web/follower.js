// @ts-check
/**
 * Keeps the newest line in view until the reader scrolls up; then keeps the reader's place, whatever changes.
 */

/** So close to the end counts as the end. */
const NEAR_END_PX = 24;

/** Time constant of the way to a new line. */
const GLIDE_MS = 90;

const UPWARDS = new Set(["ArrowUp", "PageUp", "Home"]);

/** Farther than this many screens the way is not shown. */
const FAR_SCREENS = 1.5;

export class Follower {
  /**
   * @param {HTMLElement} scroller what scrolls
   * @param {HTMLElement} rows its items, in order
   * @param {HTMLElement} jump the button back to the newest line
   */
  constructor(scroller, rows, jump) {
    this._scroller = scroller;
    this._rows = rows;
    this._jump = jump;
    this._lastTop = 0;
    this._frame = 0;
    this.following = true;
    scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
    // Before the first pixel has moved: a caption that comes in between would pull the reader back down.
    scroller.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this._leave(), { passive: true });
    scroller.addEventListener("keydown", ({ key }) => UPWARDS.has(key) && this._leave());
    jump.addEventListener("click", () => {
      this._setFollowing(true);
      this._toEnd();
      scroller.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this.following && this._toEnd({ atOnce: true })).observe(scroller);
  }

  /** Runs a change of the content without moving what is read. @param {() => void} change */
  around(change) {
    if (this.following) {
      change();
      this._toEnd();
      return;
    }
    const anchor = this._firstVisible();
    const before = anchor?.getBoundingClientRect().top ?? 0;
    change();
    if (!anchor?.isConnected) return;
    const moved = anchor.getBoundingClientRect().top - before;
    if (Math.abs(moved) < 1) return;
    this._scroller.scrollTop += moved;
    this._lastTop = this._scroller.scrollTop;
  }

  _scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this._scroller;
    const left = scrollHeight - clientHeight - scrollTop;
    // Following only ever scrolls down, so upwards is the reader; at the very end it is the content that shrank.
    if (scrollTop < this._lastTop - 1) this._setFollowing(this.following && left <= 2);
    else if (left <= NEAR_END_PX && scrollTop > this._lastTop) this._setFollowing(true);
    this._lastTop = scrollTop;
  }

  _leave() {
    if (this._scroller.scrollTop > 0) this._setFollowing(false);
  }

  /** @param {boolean} following */
  _setFollowing(following) {
    this.following = following;
    this._jump.hidden = following;
  }

  /**
   * Glides to the newest line. By hand: in Chromium the browser's own smooth scrolling goes on against the reader's
   * wheel and wins.
   */
  _toEnd({ atOnce = false } = {}) {
    const { scrollHeight, clientHeight, scrollTop } = this._scroller;
    const far = scrollHeight - clientHeight - scrollTop > clientHeight * FAR_SCREENS;
    if (atOnce || far || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this._scroller.scrollTop = scrollHeight;
      return;
    }
    if (this._frame) return;
    let before = performance.now();
    const step = (/** @type {number} */ now) => {
      this._frame = 0;
      const { scrollHeight: height, clientHeight: seen, scrollTop: top } = this._scroller;
      const left = height - seen - top;
      if (!this.following || left < 1) return;
      const share = 1 - Math.exp(-Math.max(0, now - before) / GLIDE_MS);
      before = now;
      this._scroller.scrollTop = top + Math.max(1, left * share);
      this._frame = requestAnimationFrame(step);
    };
    this._frame = requestAnimationFrame(step);
  }

  /** The first word or item that can be seen, found by bisection: items lie in order. @returns {Element | undefined} */
  _firstVisible() {
    const edge = this._scroller.getBoundingClientRect().top;
    const items = this._rows.children;
    let low = 0;
    let high = items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (items[middle].getBoundingClientRect().bottom > edge) high = middle;
      else low = middle + 1;
    }
    const item = items[low];
    const words = item ? [...item.querySelectorAll(".word")] : [];
    return words.find((word) => word.getBoundingClientRect().top >= edge) ?? item;
  }
}
