// The npm package `ws` as a client that compresses: holds a whole conversation with the server named as the argument and
// prints what it found as one line of JSON.
'use strict';

const assert = require('node:assert');
const { on, once } = require('node:events');
const WebSocket = require('ws');

async function main(url) {
  const socket = new WebSocket(url, ['first', 'second'], { perMessageDeflate: { threshold: 0 } });
  const messages = on(socket, 'message');
  const next = async () => (await messages.next()).value;
  await once(socket, 'open');

  const long = 'a long text that compresses well; '.repeat(20_000);
  for (const sent of ['grüße\r\n', '', long]) {
    socket.send(sent);
    const [data, binary] = await next();
    assert.strictEqual(binary, false);
    assert.strictEqual(data.toString(), sent);
  }
  const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, n) => (n * 31) % 251));
  socket.send(bytes);
  const [back, binary] = await next();
  assert.ok(binary && bytes.equals(back), 'the same bytes come back');

  socket.send('extensions');
  const server = (await next())[0].toString();
  socket.send('pings 3');
  const pings = (await next())[0].toString();

  socket.send('burst 1000');
  for (let n = 1; n <= 1000; n++) {
    const [data, binary] = await next();
    assert.strictEqual(data.toString(), String(n));
    assert.strictEqual(binary, n % 3 === 0);
  }

  const closed = once(socket, 'close');
  socket.send('close 4001 kicked out');
  const [code, reason] = await closed;
  const found = { protocol: socket.protocol, client: socket.extensions, server, pings, code, reason: reason.toString() };
  console.log(JSON.stringify(found));
}

main(process.argv[2]);
