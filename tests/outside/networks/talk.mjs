// Talks through a box: node talk.mjs <page> <proxy or ""> <transport> <messages> <chromium or firefox>. A line for each
// step; then how it went, as JSON; the last, "gone", when the page died while it held a socket.
import { inPage } from "../middlebox/box.mjs";

const [address, proxy, transport, count, which] = process.argv.slice(2);
const { Browser } = await import(which === "firefox" ? "../client/firefox.mjs" : "../client/browser.mjs");
const browser = await Browser.start(proxy);
let page;
const patience = setTimeout(() => fail(new Error("took too long")), 200000);
// So that a slow step is no silence.
const steps = setInterval(() => console.log("still at it"), 5000);

async function fail(error) {
  clearInterval(steps);
  console.log(JSON.stringify({ failed: error.message, console: page?.console.slice(-12) }));
  await browser.stop();
  process.exit(1);
}

try {
  console.log("a browser");
  page = await (await browser.context()).page(address);
  await page.run(inPage);
  const first = await page.run(async () => {
    const begun = performance.now();
    window.socket = open_("/echo");
    socket.onopen = () => socket.send("first");
    await until("the first message", () => socket.got[0] === "first" || (socket.ended && (() => { throw new Error("closed: " + JSON.stringify(socket.ended)); })()), 60000);
    return Math.round(performance.now() - begun);
  });
  console.log("a message");
  // Where it is meant to end; where it does is told below.
  await page.run(transport => on(socket, transport).catch(() => {}), transport);
  console.log("a transport");
  await page.run(async count => {
    window.counting = open_("/numbers?" + count);
    await opened(counting);
    window.say = async (from, to) => {
      for (let number = from; number <= to; number++) {
        counting.send(String(number));
        if (number % 5 === 0) await wait(10);
      }
    };
    await say(1, count / 2);
  }, +count);
  // The box is killed and started again meanwhile.
  console.log("half");
  const counted = await page.run(async count => {
    await say(count / 2 + 1, count);
    await until("the end of counting", () => counting.ended, 60000);
    const wrong = counting.got.findIndex((text, at) => text !== String(at + 1));
    return { wrong, got: counting.got.length, code: counting.ended.code, reason: counting.ended.reason };
  }, +count);
  console.log("counted");
  const echoed = await page.run(async () => {
    // Longer than any box here waits.
    await wait(7000);
    const begun = performance.now();
    socket.send("after a silence");
    await until("the echo after a silence", () => socket.got[1] === "after a silence", 60000);
    const late = Math.round(performance.now() - begun);
    socket.close(4321, "enough");
    await until("the close", () => socket.ended, 60000);
    const { moves, got, ended } = socket;
    return { moves, late, extra: got.length - 2, code: ended.code, reason: ended.reason };
  });
  console.log("echoed");
  const last = await page.run(async () => {
    window.ghost = open_("/ghost");
    await opened(ghost);
    ghost.send("boo");
    await until("an echo", () => ghost.got[0] === "boo", 60000);
    await until("a transport", () => ghost.moves.length, 60000);
    await wait(500);
    return ghost.moves.at(-1).transport;
  });
  clearInterval(steps);
  console.log(JSON.stringify({ first, counted, echoed, last }));
  await page.die();
  console.log("gone");
  clearTimeout(patience);
  await browser.stop();
} catch (error) {
  await fail(error);
}
