// @ts-check
/** What went wrong, in words for people: from close codes, server errors and microphone refusals. */

/** @typedef {{what: string, advice: string, retry: boolean}} Problem */

/** Close codes after which the same request would be refused again (server/errors.py). */
export const NOT_WORTH_RETRYING = new Set([4400, 4404, 4409, 4413, 4415, 4426, 4429, 4401, 4403]);

/** @type {Problem} */
export const UNREACHABLE = {
  what: "The server can't be reached.",
  advice: "Trying again by itself; check that it is running and that this device is online.",
  retry: false,
};

/** @type {Record<string, Problem>} */
const REFUSALS = {
  at_capacity: {
    what: "The server is full.",
    advice: "It takes no further meeting until another one ends.",
    retry: true,
  },
  no_such_session: {
    what: "This meeting is not known here.",
    advice: "Its link may be mistyped, or its captions were deleted.",
    retry: false,
  },
  session_exists: {
    what: "This meeting already has a microphone, or has ended.",
    advice: "Start a new meeting.",
    retry: false,
  },
  unsupported_audio: {
    what: "The server does not take this microphone's sound.",
    advice: "Choose another microphone.",
    retry: true,
  },
  unknown_version: {
    what: "This page and the server do not fit together.",
    advice: "Reload the page.",
    retry: false,
  },
  store_unavailable: {
    what: "The server can't reach its store.",
    advice: "Its operator has to look at it.",
    retry: true,
  },
};

/** @type {Record<string, string>} */
const CODE_NAMES = {
  4404: "no_such_session",
  4409: "session_exists",
  4415: "unsupported_audio",
  4426: "unknown_version",
  4429: "at_capacity",
};

/** @param {import("./captions.js").Message} error a server `error` @returns {Problem} */
export function refusal(error) {
  const known = REFUSALS[error.code] ?? REFUSALS[CODE_NAMES[error.code]];
  const problem = known ?? {
    what: "The server refused.",
    advice: error.message ?? `Code ${error.code}.`,
    retry: true,
  };
  const wait = error.retry_after_s;
  return wait ? { ...problem, advice: `${problem.advice} Another try may work in ${Math.ceil(wait)} s.` } : problem;
}

/** @type {Record<string, Problem>} */
const MICROPHONE = {
  NotAllowedError: {
    what: "The microphone is blocked.",
    advice: "Allow it for this page in the browser's address bar, or in the system's privacy settings.",
    retry: true,
  },
  NotFoundError: {
    what: "No microphone was found.",
    advice: "Plug one in, or play the sample meeting.",
    retry: true,
  },
  NotReadableError: {
    what: "The microphone can't be opened.",
    advice: "Another program may be using it.",
    retry: true,
  },
  OverconstrainedError: {
    what: "The chosen microphone is gone.",
    advice: "Choose another one.",
    retry: true,
  },
  InsecureContext: {
    what: "The browser gives microphones to secure pages only.",
    advice: "Open this page over https:// or on http://localhost.",
    retry: false,
  },
  Unreachable: {
    what: UNREACHABLE.what,
    advice: "Check that it is running and that this device is online.",
    retry: true,
  },
  Unplugged: {
    what: "The microphone was unplugged.",
    advice: "What was heard until then is captioned.",
    retry: false,
  },
};

/** @param {unknown} error what getUserMedia or the audio graph threw @returns {Problem} */
export function microphoneProblem(error) {
  const { name = "", message = String(error) } = error instanceof Error ? error : {};
  return MICROPHONE[name] ?? { what: "The microphone can't be used.", advice: message, retry: true };
}
