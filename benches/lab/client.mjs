// The browser's side of the row `client`: node client.mjs <native, bare, or a transport> <peer's address> <messages> <seconds>.
// A headless Chromium opens a page of the peer, and a WebSocket of that page is flooded, floods, and is echoed. Enters: what
// benches/run asks. Leaves: a line of JSON. Must not touch: how the figures are judged.
import http from "node:http";
import zlib from "node:zlib";
import { Browser } from "../../tests/outside/client/browser.mjs";

const [kind, address, messages, seconds] = process.argv.slice(2);
const rounded = value => Math.round(value * 1000) / 1000;

// In the page. With `transport`, the client's script is put there, which replaces WebSocket.
async function prepare(transport) {
  if (transport !== "native") {
    const script = Object.assign(document.createElement("script"), { src: "/_underpass/client.js" });
    script.dataset.transports = transport;
    await new Promise((done, fail) => { script.onload = done; script.onerror = fail; document.head.append(script); });
  }
  window.open_ = async path => {
    const socket = new WebSocket(path), moved = new Promise(done => socket.addEventListener("underpass", done));
    socket.onclose = ({ code }) => console.log("closed " + code);
    await new Promise((done, fail) => { socket.onopen = done; socket.onerror = () => fail(new Error("no " + path)); });
    return { socket, moved };
  };
}

// In the page: the rate at which numbered messages come, all of them in order.
async function down(count) {
  const { socket } = await open_(`/flood-${count}-64`);
  let got = 0, begun;
  await new Promise((done, fail) => {
    socket.onmessage = ({ data }) => {
      begun ??= performance.now();
      if (data.length !== 64 || parseInt(data.slice(16, 32), 16) !== got++) fail(new Error(`${data} came for ${got - 1}`));
      if (got === count) done();
    };
  });
  const took = performance.now() - begun;
  socket.close();
  return (count - 1) / took * 1000;
}

// In the page: the rate at which messages are sent until the backend has all, in order.
async function up(count, transport) {
  const { socket, moved } = await open_(`/take-${count}`);
  if (transport !== "native") await moved;
  const said = new Promise(done => { socket.onmessage = ({ data }) => done(data); });
  const begun = performance.now();
  for (let number = 0; number < count; number++) socket.send(String(number).padEnd(64, "x"));
  if (await said !== `took ${count}`) throw new Error(await said);
  const took = performance.now() - begun;
  socket.close();
  return count / took * 1000;
}

// In the page: round trips, one after the other.
async function echo(seconds, transport) {
  const { socket, moved } = await open_("/echo");
  if (transport !== "native") await moved;
  const trips = [], text = "x".repeat(64);
  for (const end = performance.now() + seconds * 1000; performance.now() < end;) {
    const begun = performance.now();
    await new Promise(done => { socket.onmessage = done; socket.send(text); });
    trips.push(performance.now() - begun);
  }
  socket.close();
  return trips.sort((a, b) => a - b);
}

// In the page: the same by what a browser has, and nothing else: a POST for each message, and an EventSource. No client over
// `sse` can be faster than that.
async function bare(seconds) {
  const opened = await fetch("/echo?underpass=open", { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } });
  const url = new URL((await opened.json()).session.url, location.origin), trips = [], messages = ["x".repeat(64)];
  const events = new EventSource(url + "/sse");
  await new Promise(done => events.addEventListener("session", done));
  let came;
  events.addEventListener("message", () => came());
  for (const end = performance.now() + seconds * 1000; performance.now() < end;) {
    const begun = performance.now(), heard = new Promise(done => { came = done; });
    const said = fetch(`${url}/send?seq=${trips.length + 1}`, { method: "POST", body: JSON.stringify({ messages }), headers: { "Content-Type": "application/json" } });
    await heard;
    trips.push(performance.now() - begun);
    await said.then(answer => answer.json());
  }
  events.close();
  return trips.sort((a, b) => a - b);
}

// The script as it is served to one that takes this coding.
function served(coding) {
  return new Promise((done, fail) => http.get(`http://${address}/_underpass/client.js`, { headers: { "Accept-Encoding": coding } }, response => {
    const chunks = [];
    response.on("data", chunk => chunks.push(chunk)).on("end", () => done(Buffer.concat(chunks)));
  }).on("error", fail));
}

if (kind === "script") {
  const [plain, gzip] = [await served("identity"), await served("gzip")];
  console.log(JSON.stringify({ bytes: plain.length, gzip: gzip.length, brotli: zlib.brotliCompressSync(plain).length }));
} else {
  const browser = await Browser.start();
  const patience = setTimeout(() => { browser.process.kill("SIGKILL"); console.error("took too long"); process.exit(1); }, 80000);
  try {
    const page = await (await browser.context()).page(`http://${address}/small`);
    let rates = {}, trips;
    if (kind === "bare") {
      await page.run(bare, seconds / 4);
      trips = await page.run(bare, +seconds);
    } else {
      await page.run(prepare, kind);
      // Once without a look at the clock, so that all is compiled.
      await page.run(down, messages / 10);
      const [downs, ups] = [await page.run(down, +messages), await page.run(up, +messages, kind)];
      rates = { down_per_s: Math.round(downs), up_per_s: Math.round(ups) };
      trips = await page.run(echo, +seconds, kind);
    }
    const at = part => rounded(trips[Math.floor(trips.length * part)]);
    console.log(JSON.stringify({ ...rates, echo_per_s: Math.round(trips.length / seconds), p50_ms: at(0.5), p99_ms: at(0.99) }));
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
  clearTimeout(patience);
  await browser.stop();
}
