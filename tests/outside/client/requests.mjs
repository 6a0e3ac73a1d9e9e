// What a request of the client's says on the wire (src/client/script/requests.js), before a server of our own.
//
//   node tests/outside/client/requests.mjs
//
// Enters: nothing. Leaves: a verdict. Must not touch: the network beyond this machine.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import http from "node:http";
import { ask } from "../../../src/client/script/requests.js";

const seen = [];
const server = http.createServer((request, response) => {
  const { headers, method, url } = request;
  seen.push({ method, url, authorization: headers.authorization, type: headers["content-type"] });
  if (url.startsWith("/old")) return response.writeHead(307, { Location: "/new" + url.slice(4) }).end();
  response.writeHead(200, { "Content-Type": "application/json" }).end("{}");
});
await new Promise(done => server.listen(0, "127.0.0.1", done));
const { port } = server.address();
const send = (url, body) => ask(url, body, 5000, "same-origin", new AbortController());
const site = `127.0.0.1:${port}`;

// A fetch refuses credentials in an address; a WebSocket sends them, as bytes.
for (const [credentials, expected] of [["anna:sesam@", "anna:sesam"], ["anna@", "anna:"], ["%C3%A4:b%3Ac@", "\u00c3\u00a4:b:c"], ["", null]]) {
  const { status } = await send(`http://${credentials}${site}/chat?underpass=open`, { nonce: "x", protocols: [] });
  const { method, url, authorization, type } = seen.pop();
  assert.deepEqual([status, method, url, type], [200, "POST", "/chat?underpass=open", "application/json"]);
  assert.equal(authorization, expected === null ? undefined : "Basic " + btoa(expected), credentials);
}

// What a session's address is relative to is who answered.
assert.equal((await send(`http://${site}/old/chat`, null)).url, `http://${site}/new/chat`);
assert.deepEqual(seen.map(({ method }) => method), ["POST", "POST"]);

// Nobody answers: no exception.
server.closeAllConnections();
await new Promise(done => server.close(done));
assert.equal((await send(`http://${site}/chat`, null)).status, 0);

// The module, as src/client/mod.rs makes it, can be imported where there is no browser.
const client = new URL("../../../src/client/", import.meta.url);
const text = ["module/address.js", "client.min.js", "module/exports.js"].map(name => readFileSync(new URL(name, client), "utf8")).join("");
const program = `
  const text = ${JSON.stringify(text)}.replace("import.meta.url", '"https://site.example/_underpass/client.mjs"');
  for (const name of ["navigator", "WebSocket"]) delete globalThis[name];
  const { WebSocket, options } = await import("data:text/javascript," + encodeURIComponent(text));
  console.log(options.base, new WebSocket("wss://site.example/chat").url, new WebSocket("wss://site.example/chat").readyState);
  process.exit(0);`;
const { status, stdout, stderr } = spawnSync("node", ["--input-type=module", "-e", program], { encoding: "utf8", timeout: 20_000 });
assert.deepEqual([status, stdout], [0, "https://site.example/_underpass/ wss://site.example/chat 0\n"], stderr.slice(-2000));
