// @ts-check
/** The names and terms of a meeting, which the recogniser then favours. */

import { cleanName } from "./rename.js";

/** server/protocol.py, MAX_VOCABULARY */
const MOST_TERMS = 200;

/**
 * Names and terms that are listed with commas or semicolons, as the server takes them.
 * @param {string} text @returns {string[]}
 */
export function cleanVocabulary(text) {
  const names = text.split(/[,;，；、]/u).map(cleanName);
  return [...new Set(names)].filter(Boolean).slice(0, MOST_TERMS);
}
