// Conversations of another kind: long ones through a box that changes its mind all the time, in an order drawn from a seed;
// and several at once in a page, which share a poll.
import { both, rows } from "./rows.mjs";
import { MESSAGES, count, counted } from "./talk.mjs";

export const tours = [1, 2, 3].map(seed => ({ name: `changes its mind all the time, seed ${seed}`, seed, ends: "any" }));

const refused = { types: ["application/json", "text/plain"] };
export const crowds = [
  ["five sockets: holds streams; two sidecars", { any: "alternate", ...both("hold") }],
  ["five sockets: holds streams; 403 for JSON and plain text", { any: refused, ...both({ hold: true, ...refused }) }],
  ["five sockets: drops three in ten answers to POSTs", { ...both("pass"), poll: { lost: 0.3 }, send: { lost: 0.3 }, ack: { lost: 0.3 } }],
].map(([name, modes]) => ({ name, modes: { ws: "kill", ...modes }, ends: "any" }));

// What the backend says and how it ends, while nobody can be reached.
export const absences = [
  ["the backend closes while nobody can be reached", {}],
  ["the backend closes while nobody can be reached; error pages of its own", { any: "errors" }],
  ["the backend closes while nobody can be reached; holds streams, error pages", { any: "errors", ...both({ hold: true, errors: true }) }],
].map(([name, modes]) => ({ name, modes: { ws: "kill", ...modes }, ends: "any", messages: 600 }));

// Without a change of box.
export const plain = [
  ["writes a script before the end of an event stream", { sse: { inject: { each: "<script></script>", only: "all came" } } }],
].map(([name, modes]) => ({ name, modes: { ws: "kill", ...modes }, ends: "any" }));

// Together they meet each row's box once. Nothing is asked of the transport.
export async function wander({ seed }, number, { box, page }) {
  const drawn = [...rows.keys()].filter(at => at % tours.length === seed - 1);
  for (let at = drawn.length - 1; at > 0; at--) {
    const other = Math.floor(box.random() * (at + 1));
    [drawn[at], drawn[other]] = [drawn[other], drawn[at]];
  }
  const stages = drawn.map(at => {
    const between = box.random() < 0.15 ? "freeze" : box.random() < 0.15 ? 1000 : undefined;
    return { ...rows[at], between, dwell: Math.round(1500 * box.random()) };
  });
  const numbers = await count(await page(), number, box, stages);
  return { counted: numbers, stages: stages.map(({ name }) => name) };
}

// Numbers both ways on five sockets, all connections cut half way.
export async function crowd({ modes }, number, { box, page }) {
  box.modes = modes;
  const tab = await page();
  const numbers = tab.run(async (number, messages) => {
    const sockets = Array.from({ length: 5 }, () => open_(`/numbers?${messages / 5}&${number}`));
    for (const socket of sockets) socket.onopen = async () => {
      for (let sent = 1; sent <= messages / 5; sent++) {
        socket.send(String(sent));
        if (sent % 5 === 0) await wait(40);
      }
    };
    await until("five ends, at " + sockets.map(({ got }) => got.length), () => sockets.every(socket => socket.ended), 60000);
    const wrong = sockets.map(({ got }) => got.findIndex((text, at) => text !== String(at + 1)));
    const { code, reason } = (sockets.find(({ ended }) => ended.code !== 4200) || sockets[0]).ended;
    const by = sockets.map(({ moves }) => moves.map(({ transport, cause }) => `${transport} (${cause})`));
    return { wrong: Math.max(...wrong), got: sockets.reduce((sum, { got }) => sum + got.length, 0), code, reason, by };
  }, number, MESSAGES);
  await Promise.race([numbers, new Promise(done => setTimeout(done, 2500))]);
  box.cut();
  return { counted: await numbers };
}

// All is sent, and on its way down, when the network goes; it is back within the grace.
export async function absence({ modes, messages }, number, { box, page }) {
  box.modes = modes;
  const tab = await page();
  await tab.run(async (number, messages) => {
    window.socket = open_(`/numbers?${messages}&${number}`);
    await until("a socket", () => socket.readyState === 1, 30000);
    for (let sent = 1; sent <= messages; sent++) socket.send(String(sent));
    await until("all accepted", () => socket.bufferedAmount === 0, 30000);
  }, number, messages);
  box.modes = { offline: true };
  box.cut();
  await new Promise(done => setTimeout(done, 4000));
  box.modes = modes;
  return { counted: await counted(tab, "socket") };
}

export async function stay({ modes }, number, { box, page }) {
  return { counted: await count(await page(), number, box, [{ modes }]) };
}
