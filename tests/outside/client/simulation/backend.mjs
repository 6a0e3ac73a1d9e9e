// The backend of one session, and the page's view of it: what both have said is written down, and what they heard is held
// against it at once.
//
// Enters: chance; messages. Leaves: a failure as soon as a message is lost, doubled, out of order or altered. Must not
// touch: numbers, requests.
import assert from "node:assert/strict";

export class Backend {
  said = [];
  heard = [];
  closes = [];

  constructor(run, name) {
    this.name = name;
    this.chance = run.chance;
    this.run = run;
    // What it must hear: filled by the page.
    this.expected = [];
    this.closeDelay = run.chance.pick([5, 50, 500, 20000]);
  }

  hear(message) {
    const number = this.heard.length;
    assert.deepEqual(message, this.expected[number], `${this.name}: the backend heard wrong as number ${number + 1}`);
    this.heard.push(message);
    this.run.cover("heard by a backend");
  }

  closed(close) {
    this.closes.push(close);
  }

  // Text, or bytes; empty, small, or once in a while larger than a batch.
  message(tag) {
    const { chance } = this;
    const size = chance.pick([0, 10, 20, 40, 100, 700]);
    const text = size ? `${tag}:${"x".repeat(size)}` : chance.pick(["", `${tag}`]);
    return chance.oneIn(3) ? new TextEncoder().encode(text) : text;
  }

  // Says something, unless the session is full.
  talk(session) {
    if (session.isFull || session.closing) return;
    this.say(session, this.message(`d${this.said.length + 1}`));
  }

  say(session, data) {
    this.said.push(data);
    session.backendSays({ data, size: data.length });
  }
}

// Plain data of a message, to be compared.
export const plain = data => (typeof data === "string" ? data : { bytes: Buffer.from(data).toString("base64") });
