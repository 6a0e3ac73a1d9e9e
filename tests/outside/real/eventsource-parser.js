// The npm package `eventsource-parser` on top of fetch, as scripts use it: listens at the URL named as the argument,
// prints every event as a line of JSON, comes back with its last id after a cut, and stops when it is told 204.
'use strict';

const { createParser } = require('eventsource-parser');

const tell = (type, id, data) => console.log(JSON.stringify({ type, id, data }));

async function listen(url) {
  let last = '';
  for (;;) {
    const response = await fetch(url, { headers: last ? { 'last-event-id': last } : {} });
    if (response.status !== 200) return tell('stopped', '', String(response.status));
    const onEvent = (event) => {
      last = event.id ?? last;
      if (event.event !== 'heartbeat') tell(event.event ?? 'message', last, event.data);
    };
    const parser = createParser({ onEvent, onError: (error) => tell('malformed', last, error.message) });
    try {
      for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
    } catch {
      // Cut: what was half an event is forgotten with its parser.
    }
  }
}

listen(process.argv[2]);
