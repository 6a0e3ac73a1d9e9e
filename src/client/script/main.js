// @ts-check
// Where it begins. As a script,
//   <script src="/_underpass/client.js" data-transports="ws,sse,stream,poll" data-debug></script>
// before any other on the page, it replaces `WebSocket`, and `new WebSocket(…)` to this origin is carried by whatever the
// network lets through (docs/PROTOCOL.md). In a worker `importScripts("/_underpass/client.js?transports=sse,poll")` does the
// same. As a module, client.mjs, it replaces nothing by itself.
//
// Enters: the script's address, its query, the tag's attributes. Leaves: the class, `install`, the options. Must not touch: anything, if the
// same script is on the page already.

import { watchPage } from "./page.js";
import { makeRunner } from "./runner.js";
import { makeWebSocket } from "./websocket.js";

/** @typedef {import("./core/types.js").Options} Options */

/**
 * @param {string} address
 * @param {string} base
 * @param {Record<string, string | undefined>} attributes
 */
function begin(address, base, attributes) {
  // Not everything that imports a module has one.
  const Native = globalThis.WebSocket || /** @type {any} */ (class {});
  /** @type {Options} */
  const options = {
    base,
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

/** The address of the script that runs, as browsers write it into the stack of an error: workers have no tag. */
const ownAddress = () => /https?:.*(?=:\d+:\d+)/.exec(String(new Error().stack))?.[0] || "";

function start() {
  const scope = /** @type {{ underpass?: Underpass, underpassAddress?: string }} */ (/** @type {unknown} */ (globalThis));
  const tag = /** @type {HTMLScriptElement | null | undefined} */ (globalThis.document?.currentScript);
  // A module is given its address as a name of its own, for `import.meta` is no word of scripts (src/client/mod.rs). What
  // stands in front of another script says it to all.
  const isModule = typeof underpassAddress !== "undefined" && underpassAddress !== scope.underpassAddress;
  const address = isModule ? underpassAddress : tag?.src || scope.underpassAddress || ownAddress();
  const { href } = new URL(".", address);
  if (scope.underpass?.options?.base === href) return scope.underpass;
  const underpass = begin(address, href, { ...Object.fromEntries(new URL(address).searchParams), ...tag?.dataset });
  if (!isModule) {
    scope.underpass = underpass;
    underpass.install();
  }
  return underpass;
}

export default start();
