// What stands in front of the sidecar: it may serve it below a path, and take that path away.
//
// Enters: chance; addresses as the client has them. Leaves: addresses; what a session is called in one. Must not touch:
// sessions.
import assert from "node:assert/strict";

export class Front {
  constructor(chance) {
    this.below = chance.pick(["", "/app", "/a/b"]);
    this.base = `http://site${this.below}/_underpass/`;
    this.folder = chance.pick(["", "/deep", "/deep/er"]);
    this.query = chance.pick(["", "?", "?room=1"]);
  }

  // The address of a WebSocket.
  target(name) {
    return `http://site${this.below}${this.folder}/${name}${this.query}`;
  }

  // What the sidecar, which knows nothing of `below`, says to a request for this path.
  toSession(path, token) {
    const depth = this.#own(path).split("/").length - 2;
    return `${"../".repeat(depth)}_underpass/s/${token}`;
  }

  // Which session, and what is asked of it.
  named(path) {
    const [, name, verb] = /^\/_underpass\/s\/([^/]*)\/(\w*)$/.exec(this.#own(path));
    return [name, verb];
  }

  // The path as it leaves the front.
  #own(path) {
    assert.ok(path.startsWith(this.below + "/"), `${path}: the front has something else there`);
    return path.slice(this.below.length);
  }
}
