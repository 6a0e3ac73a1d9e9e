// The npm package `mqtt` as a client of the broker at the port named as the argument (something between carries its
// bytes): subscribes to `down`, waits for a message there, publishes one to `up`, both with quality of service 1, waits for the answer to a
// keep-alive, and leaves in good order. Prints a line for each step.
'use strict';

const { once } = require('node:events');
const mqtt = require('mqtt');

async function main(port) {
  const client = mqtt.connect({
    protocol: 'mqtt', host: '127.0.0.1', port, clientId: 'carried', keepalive: 1, reconnectPeriod: 0,
  });
  client.on('error', (error) => { throw error; });
  const pong = new Promise((resolve) => {
    client.on('packetreceive', (packet) => packet.cmd === 'pingresp' && resolve());
  });
  const message = once(client, 'message');
  await once(client, 'connect');
  const [granted] = await client.subscribeAsync('down', { qos: 1 });
  console.log(`subscribed ${granted.topic} ${granted.qos}`);
  const [topic, payload, packet] = await message;
  console.log(`heard ${topic} ${packet.qos} ${payload}`);
  await client.publishAsync('up', 'from the carried client', { qos: 1 });
  console.log('published');
  await pong;
  console.log('ponged');
  await client.endAsync();
  console.log('left');
}

main(Number(process.argv[2]));
