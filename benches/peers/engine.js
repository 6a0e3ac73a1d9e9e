// What a user would write with engine.io, polling only: each engine.io session becomes a WebSocket to the backend.
// node engine.js <listen port> <backend port>; `target` in the query is the backend's path.
'use strict';
const http = require('http');
const { Server } = require('engine.io');
const { WebSocket } = require('ws');

const [port, backend] = process.argv.slice(2).map(Number);
const server = http.createServer();
const bridge = new Server({ transports: ['polling'], httpCompression: false });

bridge.on('connection', (client) => {
  const path = client.request._query.target;
  const upstream = new WebSocket(`ws://127.0.0.1:${backend}${path}`, { perMessageDeflate: false });
  const early = [];
  upstream.on('open', () => early.splice(0).forEach((text) => upstream.send(text)));
  upstream.on('message', (data) => client.send(data.toString()));
  upstream.on('close', () => client.close());
  upstream.on('error', () => client.close());
  client.on('message', (text) => (upstream.readyState === WebSocket.OPEN ? upstream.send(text) : early.push(text)));
  client.on('close', () => upstream.terminate());
});

bridge.attach(server);
server.listen({ port, host: '127.0.0.1', backlog: 4096 });
