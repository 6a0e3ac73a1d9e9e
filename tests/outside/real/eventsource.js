// The npm package `eventsource`, the EventSource of browsers for Node: listens at the URL named as the argument, prints
// every event as a line of JSON, comes back by itself after a cut, and says so when it stops for good.
'use strict';

const { EventSource } = require('eventsource');

const tell = (type, id, data) => console.log(JSON.stringify({ type, id, data }));
const source = new EventSource(process.argv[2]);
for (const type of ['session', 'message', 'binary', 'json', 'close']) {
  source.addEventListener(type, (event) => tell(type, event.lastEventId, event.data));
}
source.addEventListener('error', (error) => {
  if (source.readyState === EventSource.CLOSED) tell('stopped', '', String(error.code ?? ''));
});
