// What a user would write with sockjs-node: each SockJS session becomes a WebSocket to the backend.
// node sockjs.js <listen port> <backend port>; the first segment of the path is the backend's.
'use strict';
const http = require('http');
const sockjs = require('sockjs');
const { WebSocket } = require('ws');

const [port, backend] = process.argv.slice(2).map(Number);
const bridge = sockjs.createServer({ log: () => {}, prefix: '/[a-z0-9-]+' });

bridge.on('connection', (client) => {
  if (!client) return;
  const path = client.pathname.split('/')[1];
  const upstream = new WebSocket(`ws://127.0.0.1:${backend}/${path}`, { perMessageDeflate: false });
  const early = [];
  upstream.on('open', () => early.splice(0).forEach((text) => upstream.send(text)));
  upstream.on('message', (data) => client.write(data.toString()));
  upstream.on('close', () => client.close());
  upstream.on('error', () => client.close());
  client.on('data', (text) => (upstream.readyState === WebSocket.OPEN ? upstream.send(text) : early.push(text)));
  client.on('close', () => upstream.terminate());
});

const server = http.createServer();
bridge.installHandlers(server);
server.listen({ port, host: '127.0.0.1', backlog: 4096 });
