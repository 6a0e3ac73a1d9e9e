// @ts-check
// Where it begins. As a script,
//   <script src="/_underpass/client.js" data-transports="ws,sse,stream,poll" data-debug></script>
// before any other on the page, it replaces `WebSocket`, and `new WebSocket(…)` to this origin is carried by whatever the
// network lets through (docs/PROTOCOL.md). As a module, client.mjs, it replaces nothing by itself.
//
// Enters: the script's address and attributes. Leaves: the class, `install`, the options. Must not touch: anything, if the
// same script is on the page already.

import { watchPage } from "./page.js";
import { makeRunner } from "./runner.js";
import { makeWebSocket } from "./websocket.js";

/** @typedef {import("./core/types.js").Options} Options */

/**
 * @param {string} address
 * @param {Record<string, string | undefined>} attributes
 */
function begin(address, attributes) {
  const Native = globalThis.WebSocket;
  /** @type {Options} */
  const options = {
    base: new URL(".", address).href,
    transports: /** @type {Options["transports"]} */ ((attributes.transports || "ws,sse,stream,poll").split(/[\s,]+/)),
    ws: /** @type {Options["ws"]} */ (attributes.ws || "session"),
    credentials: /** @type {Options["credentials"]} */ (attributes.credentials || "same-origin"),
    debug: "debug" in attributes,
  };
  const runner = makeRunner(options, Native, address);
  const WebSocket = makeWebSocket(runner);
  const install = () => {
    globalThis.WebSocket = /** @type {typeof Native} */ (/** @type {unknown} */ (WebSocket));
  };
  watchPage(runner);
  return { WebSocket, install, options };
}

/** @typedef {ReturnType<typeof begin>} Underpass */

function start() {
  const earlier = /** @type {{ underpass?: Underpass }} */ (globalThis).underpass;
  // A module learns its address from outside, for `import.meta` is no word of scripts (src/client/mod.rs).
  const isModule = typeof underpassAddress !== "undefined";
  const tag = isModule ? null : /** @type {HTMLScriptElement} */ (document.currentScript);
  const address = tag ? tag.src : underpassAddress;
  if (earlier?.options?.base === new URL(".", address).href) return earlier;
  const underpass = begin(address, tag ? { ...tag.dataset } : {});
  if (!isModule) underpass.install();
  return underpass;
}

export default start();
