// @ts-check
// One poll. It is a GET, or a POST where GETs have been answered by somebody who keeps answers: a store on the way, a
// service worker. Nobody keeps those of a POST.
//
// Enters: which sessions, from where on. Leaves: their answers, if it was the sidecar that answered, and now.
// Must not touch: what is in them; when to poll again.

/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").PollAnswer} PollAnswer */

/** GETs in a row that came to nothing. */
const IN_VAIN = 2;

/** @param {import("./core.js").Core} core */
export function makePoll(core) {
  let vain = 0;
  /**
   * @param {string} url A session's; the others are asked for by the same way, since the token decides.
   * @param {Record<string, number>} cursors By token.
   * @param {string} query
   * @param {number} patience Milliseconds.
   * @param {(answers: Record<string, PollAnswer> | null, answer: Answer) => void} then
   */
  return (url, cursors, query, patience, then) => {
    const n = core.outside.word(12);
    const [first, second] = Object.keys(cursors);
    const posts = !!second || vain >= IN_VAIN;
    const address = `${new URL(first, url).href}/poll${posts ? "s" : ""}?after=${cursors[first]}&${query}&n=${n}`;
    return core.ask(address, posts ? { sessions: cursors } : undefined, answer => {
      const { body } = answer;
      // What is not an answer to this very request is somebody else's, or an old one.
      const isOurs = body?.n === n && !(body.error && second);
      // Where POSTs are refused, GETs are tried again.
      if (isOurs !== posts) vain = 0;
      else if (!posts) vain++;
      then(isOurs ? body.sessions || { [first]: /** @type {PollAnswer} */ (body) } : null, answer);
    }, patience);
  };
}
