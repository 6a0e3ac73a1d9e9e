// The npm package `ws` as a backend, compressing every message it may. Prints its port. What it answers:
//   "burst N"            N messages, "1" to "N", every third one as bytes
//   "pings N"            after N pings and their pongs, "ponged N"
//   "extensions"         what was negotiated
//   "close CODE REASON"  a close
//   anything else        the same again
'use strict';

const { once } = require('node:events');
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => [...offered][0] ?? false,
});
server.on('listening', () => console.log(server.address().port));
server.on('connection', (socket) => {
  socket.on('error', (error) => console.error('ws server:', error.message));
  socket.on('message', (data, binary) => answer(socket, data, binary));
});

async function answer(socket, data, binary) {
  const [word, count, ...rest] = binary ? [] : data.toString().split(' ');
  if (word === 'burst') {
    for (let n = 1; n <= Number(count); n++) socket.send(n % 3 ? String(n) : Buffer.from(String(n)));
  } else if (word === 'pings') {
    for (let n = 1; n <= Number(count); n++) {
      socket.ping(`ping ${n}`);
      const [pong] = await once(socket, 'pong');
      if (pong.toString() !== `ping ${n}`) return socket.close(4400, 'a wrong pong');
    }
    socket.send(`ponged ${count}`);
  } else if (word === 'extensions') {
    socket.send(socket.extensions || 'none');
  } else if (word === 'close') {
    socket.close(Number(count), rest.join(' '));
  } else {
    socket.send(data, { binary });
  }
}
