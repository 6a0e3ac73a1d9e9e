// @ts-check
// What happens to the page: it is shown, set aside, frozen, left; the network comes and goes; seconds pass.
//
// Enters: the browser's events. Leaves: the core's. Must not touch: sessions.

/**
 * @param {import("./runner.js").Runner} runner
 */
export function watchPage(runner) {
  const { core } = runner;
  const { document, navigator } = globalThis;
  /**
   * @param {unknown} target Perhaps this browser has none.
   * @param {string} type
   * @param {(event: any) => void} act
   */
  const on = (target, type, act) => {
    /** @type {Partial<EventTarget> | undefined} */ (target)?.addEventListener?.(type, event => runner.tell(() => act(event)));
  };
  const { connection } = /** @type {{ connection?: unknown }} */ (navigator || {});
  const timer = setInterval(() => runner.tell(() => core.tick()), 1000);
  // Node.js lives as long as a timer that is not told so.
  /** @type {{ unref?: () => void }} */ (/** @type {unknown} */ (timer)).unref?.();
  on(globalThis, "pagehide", ({ persisted }) => (persisted ? core.sleep() : core.leave()));
  on(globalThis, "pageshow", ({ persisted }) => persisted && core.rouse("resumed"));
  on(globalThis, "online", () => core.networkChanged());
  on(connection, "change", () => core.networkChanged());
  on(document, "freeze", () => core.sleep());
  on(document, "resume", () => core.rouse("resumed"));
  on(document, "visibilitychange", () => document.hidden || core.rouse("shown"));
}
