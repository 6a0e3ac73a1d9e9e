// Runs pages through hand-overs: node handover.mjs <address of the sidecar> [part of a case's name]
import assert from "node:assert/strict";
import { inPage } from "../middlebox/page.mjs";
import { run } from "./suite.mjs";

const [site, part = ""] = process.argv.slice(2);

// Messages each way; each page has its own number of them, by which the backend's record knows it. The backend sends one each
// 3 ms, and so does the page.
const LEAST = 3000;
// How long a page may hear nothing, in milliseconds: far above what a hand-over takes on a busy machine, and below what a
// client takes for which its connection was lost.
const SILENCE = 4000;

const counts = ([transport, Class, name], index) => ({
  async [`numbered messages each way by ${name}`]({ page }) {
    const tab = await page(transport), count = LEAST + index;
    const seen = await tab.run(async (count, Class) => {
      const socket = open_(`/count?${count}`, [], window[Class]), seen = { errors: 0, silence: 0 };
      socket.addEventListener("error", () => seen.errors++);
      await opened(socket);
      let last = performance.now();
      socket.addEventListener("message", () => {
        const now = performance.now();
        seen.silence = Math.max(seen.silence, now - last);
        last = now;
      });
      for (let sent = 1; sent <= count; sent++) {
        socket.send(String(sent));
        if (sent % 5 === 0) await wait(15);
      }
      await until("the end", () => socket.ended, 90000);
      seen.wrong = socket.got.findIndex((text, at) => text !== String(at + 1));
      seen.got = socket.got.length;
      seen.ended = socket.ended;
      seen.by = [...new Set(socket.moves.map(move => move.transport).filter(Boolean))];
      seen.opened = (await log(`open /count?${count}`)).length;
      return seen;
    }, count, Class);
    console.log(`       by ${name} the longest silence was ${Math.round(seen.silence)} ms`);
    assert.ok(seen.silence < SILENCE, `nothing was heard for ${seen.silence} ms`);
    assert.deepEqual({ ...seen, silence: 0 }, {
      errors: 0, silence: 0, wrong: -1, got: count, opened: 1,
      ended: { code: 4200, reason: "all came", wasClean: true },
      by: Class === "Native" ? [] : [transport],
    });
  },
});

const all = [["ws", "WebSocket", "ws"], ["sse", "WebSocket", "sse"], ["stream", "WebSocket", "stream"], ["poll", "WebSocket", "poll"],
  ["ws", "Native", "a WebSocket that passes through"]];

await run(Object.assign({}, ...all.map(counts)), "chromium", part, { abreast: all.length, patience: 120000, silence: 180000 }, async context => {
  const pages = [];
  const world = {
    async page(transports) {
      const page = await context.page(`http://${site}/page?${transports}`);
      pages.push(page);
      await page.run(inPage);
      return page;
    },
  };
  return { world, context, pages, said: () => [], end() {} };
});
