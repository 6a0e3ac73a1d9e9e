// What is said through each box, and what was seen meanwhile.

// Numbered messages each way, and at which of them the box changes.
export const MESSAGES = 2000;

// A first message; closing by the page; numbers both ways while the box changes; a page that dies.
export async function converse(row, number, { box, page }) {
  box.modes = row.modes;
  const tab = await page();
  await tab.call("Inspector.enable");
  const first = await tab.run(async number => {
    const begun = performance.now();
    window.socket = open_("/echo?" + number);
    socket.onopen = () => socket.send("first");
    await until("the first message", () => socket.got[0] === "first" || (socket.ended && broken(socket)), 30000);
    return Math.round(performance.now() - begun);
    function broken({ ended }) { throw new Error("closed: " + JSON.stringify(ended)); }
  }, number);
  const echoed = await tab.run(async (ends, silence, busy) => {
    let sent = 1;
    for (const end = Date.now() + 30000; Date.now() < end && socket.moves.at(-1)?.transport !== ends; await wait(50)) {
      if (busy && socket.got.length === sent) sent++, socket.send("one more");
    }
    if (silence) await wait(silence);
    for (let at = 0; at < 50; at++) sent++, socket.send("n" + at);
    await until("echoes", () => socket.got.length >= sent, 30000);
    await wait(1000);
    const last = socket.moves.at(-1);
    socket.close(4321, "enough");
    await until("the close", () => socket.ended, 30000);
    const { got, moves, ended: { code, reason } } = socket;
    return { transport: last?.transport, cause: last?.cause, moves, extra: got.length - sent, code, reason };
  }, row.ends, row.silence, row.busy);
  const numbers = await count(tab, number, box, [row.modes, {}, row.modes].map(modes => ({ modes, between: row.between })));
  const last = await tab.run(async number => {
    window.ghost = open_("/ghost?" + number);
    await until("a ghost", () => ghost.readyState === 1, 30000);
    ghost.send("boo");
    await until("an echo", () => ghost.got[0] === "boo" && ghost.moves.length, 30000);
    await wait(300);
    return ghost.moves.at(-1).transport;
  }, number);
  const died = tab.next("Inspector.targetCrashed");
  tab.call("Page.crash").catch(() => {});
  await died;
  return { first, echoed, counted: numbers, last };
}

// A session through these boxes, one after the other. Before each but the first all connections are cut, or what `between`
// says; behind each it is quiet for `dwell` milliseconds.
export async function count(tab, number, box, stages) {
  const messages = MESSAGES, part = messages / stages.length;
  box.modes = stages[0].modes;
  await tab.run(async (number, messages) => {
    window.counting = open_(`/numbers?${messages}&${number}`);
    let last = performance.now();
    counting.pause = 0;
    counting.addEventListener("message", () => {
      counting.pause = Math.max(counting.pause, Math.round(performance.now() - last));
      last = performance.now();
    });
    await until("a socket to count on", () => counting.readyState === 1, 30000);
  }, number, messages);
  for (const [stage, { modes, between, dwell }] of stages.entries()) {
    if (stage && between > 0) {
      box.modes = { offline: true };
      box.cut();
      await new Promise(done => setTimeout(done, between));
    }
    box.modes = modes;
    if (stage && between === "freeze") box.freeze(); else if (stage) box.cut();
    await tab.run(async (stage, from, to, dwell) => {
      // As if another network were joined: verdicts are void.
      if (stage) window.dispatchEvent(new Event("online"));
      for (let sent = from; sent <= to; sent++) {
        counting.send(String(sent));
        if (sent % 5 === 0) await wait(8);
      }
      if (dwell) await wait(dwell);
    }, stage, Math.round(stage * part) + 1, Math.round((stage + 1) * part), dwell);
  }
  return await counted(tab, "counting");
}

// What came on the socket of that name, when it has ended.
export function counted(tab, name) {
  return tab.run(async name => {
    const socket = window[name];
    await until("the end of counting, at " + socket.got.length + " on " + socket.moves.at(-1)?.transport, () => socket.ended, 60000);
    const wrong = socket.got.findIndex((text, at) => text !== String(at + 1));
    const { got, moves, ended: { code, reason } } = socket;
    return { wrong, got: got.length, code, reason, pause: socket.pause, by: moves.map(({ transport, cause }) => `${transport} (${cause})`) };
  }, name);
}
