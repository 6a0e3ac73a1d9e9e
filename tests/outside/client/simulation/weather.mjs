// What the network does today: whether anything passes, what becomes of short requests, what each transport suffers.
//
// Enters: chance. Leaves: what happens to this request, this connection. Must not touch: what is carried.

export const fair = () => ({
  offline: false, latency: [1, 30], lostRequest: 0, lostAnswer: 0, twice: 0, replaced: 0, stale: 0,
  ws: "pass", sse: "pass", stream: "pass", poll: "pass", cuts: 0,
  // Somebody who keeps answers to GETs by their path; the largest body of a request; what becomes of polls after so many
  // milliseconds; what the sidecar answers in place of the right thing, by verb.
  store: null, largest: Infinity, pollLimit: 0, pollStatus: 0, errors: {},
  // Addresses that somebody refuses.
  refused: null,
  // Milliseconds of idleness after which nothing comes any more; bytes in each millisecond, or 0 for no bound.
  silentAfter: Infinity, pace: 0,
});

// One of so many; 0 is never.
export const strikes = (chance, n) => n > 0 && chance.oneIn(n);

export function foul(chance) {
  const weather = fair();
  const often = chance.pick([0, 3, 8, 30]);
  weather.latency = chance.pick([[1, 5], [1, 60], [20, 400], [1, 1500]]);
  for (const what of ["lostRequest", "lostAnswer", "twice", "replaced", "stale"]) {
    if (chance.oneIn(2)) weather[what] = often && often * chance.between(1, 3);
  }
  weather.ws = chance.pick(["pass", "pass", "refuse", "swallow", "mute", "young"]);
  weather.sse = chance.pick(["pass", "pass", "refuse", "hold", "late", "mute", "alter", "stale"]);
  weather.stream = chance.pick(["pass", "pass", "refuse", "hold", "mute", "stale"]);
  weather.poll = chance.pick(["pass", "pass", "pass", "short"]);
  weather.cuts = chance.pick([0, 0, 10, 40]);
  weather.offline = chance.oneIn(8);
  return weather;
}
