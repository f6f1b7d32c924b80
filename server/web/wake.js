// @ts-check
/** Keeps the screen on while captions come: nobody touches a display on the wall. */

/** @type {WakeLockSentinel | null} */
let lock = null;
let wanted = false;

/** @param {boolean} awake */
export function keepAwake(awake) {
  if (awake === wanted) return;
  wanted = awake;
  void update();
}

async function update() {
  if (!("wakeLock" in navigator)) return;
  try {
    if (wanted && !lock && document.visibilityState === "visible") {
      lock = await navigator.wakeLock.request("screen");
      lock.addEventListener("release", () => {
        lock = null;
      });
    } else if (!wanted) {
      await lock?.release();
    }
  } catch {
    // Refused on a low battery or by policy: the captions do not depend on it.
  }
}

// The browser takes the lock away from a hidden page and does not give it back by itself.
document.addEventListener("visibilitychange", () => void update());
