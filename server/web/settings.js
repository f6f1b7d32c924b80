// @ts-check
/** The reader's choices, remembered in this browser. */

/** @typedef {"auto" | "dark" | "light"} Theme */
/** @typedef {{theme: Theme, scale: number, deviceId: string, volume: number}} Settings */

const KEY = "crosstalk";
export const SCALES = [0.6, 0.7, 0.8, 0.9, 1, 1.15, 1.3, 1.5, 1.75, 2, 2.5];

/** @type {Settings} */
const DEFAULTS = { theme: "auto", scale: 1, deviceId: "", volume: 80 };

/** @returns {Settings} */
export function loadSettings() {
  try {
    const { theme, scale, deviceId, volume } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return {
      theme: ["auto", "dark", "light"].includes(theme) ? theme : DEFAULTS.theme,
      scale: SCALES.includes(scale) ? scale : DEFAULTS.scale,
      deviceId: typeof deviceId === "string" ? deviceId : DEFAULTS.deviceId,
      volume: volume >= 0 && volume <= 100 ? volume : DEFAULTS.volume,
    };
  } catch {
    return { ...DEFAULTS }; // storage is blocked or was written by something else
  }
}

/** @param {Settings} settings */
export function saveSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // Private windows may refuse; the choice then lasts as long as the page.
  }
}

/** @param {Settings} settings */
export function applySettings({ theme, scale }) {
  document.documentElement.dataset.theme = theme;
  document.documentElement.style.setProperty("--scale", String(scale));
}

/** @param {number} scale @param {number} steps @returns {number} the scale some steps larger or smaller */
export function stepScale(scale, steps) {
  const at = SCALES.indexOf(scale) + steps;
  return SCALES[Math.max(0, Math.min(SCALES.length - 1, at))];
}
