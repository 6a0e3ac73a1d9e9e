// ---- A run: all transports at once, for the chosen time. ----

class Run {
  constructor(seconds) {
    Object.assign(this, { begun: now(), seconds, stop: new AbortController(), sessions: [], notes: new Set(), seen: null, trouble: null });
    Object.assign(this, { started: new Date(), ending: false, over: false, form: false });
    this.rows = [["native", "WebSocket"], ["ws", "ws"], ["sse", "sse"], ["stream", "stream"], ["poll", "poll"], ["post", "POST"]].map(one => new Row(...one));
  }
  row(kind) { return this.rows.find(row => row.kind === kind); }
  get lives() { return !this.stop.signal.aborted; }
  lasted() { return (this.overAt ?? now()) - this.begun; }

  async go() {
    try {
      const got = await request("selftest/seen", { headers: { "X-Selftest": "1" } });
      if (got.status !== 200 || !got.body?.talk) throw new Error(`this server answers ${blame(got)}`);
      this.seen = got.body;
      this.compare();
      const all = Object.entries(transports).map(([kind, test]) => test(this.row(kind)));
      this.large();
      while (now() - this.begun < this.seconds * 1000 && this.lives) await sleep(100);
      this.ending = true;
      await Promise.all(all);
    } catch (error) { this.trouble = failure(error); }
    this.finish();
  }
  finish() {
    if (this.over) return;
    this.overAt = now();
    for (const row of this.rows) row.done = true;
    this.over = true;
    this.stop.abort();
    for (const session of this.sessions) fetch(`${base}/s/${session.token}/close`, { method: "POST", keepalive: true }).catch(() => {});
    paint();
  }
  // Whether a body of some size arrives completely.
  async large() {
    const size = 6000;
    try {
      const response = await request("selftest/seen", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify("x".repeat(size - 2)) });
      if (response.status !== 200 || !response.ours) this.notes.add(`POST of ${size} bytes: ${blame(response)}`);
      else if (response.body.body !== size) this.notes.add(`POST of ${size} bytes arrived with ${response.body.body}`);
    } catch (error) { if (this.lives) this.notes.add(`POST of ${size} bytes: ${failure(error)}`); }
  }

  // Compares what the server received with what was sent.
  compare() {
    const { version, proto, headers } = this.seen;
    const ours = /^(accept|accept-encoding|accept-language|cache-control|connection|content-length|content-type|cookie|authorization|dnt|host|if-.*|origin|pragma|priority|referer|save-data|sec-.*|te|upgrade-insecure-requests|user-agent|x-selftest)$/;
    const spoken = performance.getEntriesByType("resource").findLast?.(entry => entry.name.includes("selftest/seen"))?.nextHopProtocol;
    const version_ = { h2: "HTTP/2.0", h3: "HTTP/3.0", "http/1.1": "HTTP/1.1" }[spoken];
    if (version_ && version_ !== version) this.notes.add(`the browser speaks ${version_}, the server hears ${version}`);
    else if (version === "HTTP/1.0") this.notes.add("the server hears HTTP/1.0");
    if (`${proto}:` !== location.protocol) this.notes.add(`the browser speaks ${location.protocol.slice(0, -1)}, the server hears ${proto}`);
    const host = headers.find(([name]) => name === "host")?.[1];
    if (host && host !== location.host) this.notes.add(`Host became ${host}`);
    for (const [name, value] of headers) if (!ours.test(name)) this.notes.add(`request gained ${name}${value ? `: ${value}` : ""}`);
    if (!headers.some(([name]) => name === "x-selftest")) this.notes.add("request lost x-selftest, a field nobody knows");
  }
  // Notes what the network changed in a response of ours.
  look({ headers, status }, type) {
    const has = name => headers.get(name);
    if (status >= 400 && !/json/.test(has("content-type"))) {
      this.notes.add(`an answer ${status} is not this server's: ${has("server") ?? has("via") ?? "nobody says whose"}`);
      return;
    }
    for (const name of ["via", "x-cache", "age", "server", "x-squid-error", "set-cookie"]) if (has(name)) this.notes.add(`answer gained ${name}: ${has(name)}`);
    const coding = has("content-encoding");
    if (coding && coding !== "identity") this.notes.add(`answer was compressed: ${coding}`);
    if (type && has("content-type") !== type) this.notes.add(`${type} became ${has("content-type")}`);
    if (has("cache-control") !== "no-store, no-transform") this.notes.add(`cache-control became ${has("cache-control")}`);
  }

  verdict() {
    if (this.trouble) return ["bad", `Nothing could be tested: ${this.trouble}.`];
    const early = !this.over && now() - this.begun < 7000;
    if (early) return ["", "Testing. The first results come within a few seconds."];
    const [native, ...others] = this.rows.filter(row => row.streams);
    const working = others.filter(row => row.works);
    const cut = [native, ...others].filter(row => row.works && (row.cuts.length || row.mute !== null)).map(row => row.name);
    const afterwards = cut.length ? ` Cut early: ${cut.join(", ")}.` : "";
    if (native.works) return [afterwards ? "warn" : "good", `WebSockets get through.${working.length < 4 ? ` Not fit for use: ${others.filter(row => !row.works).map(row => row.name).join(", ")}.` : " So does everything else."}${afterwards}`];
    if (working.length) return ["warn", `WebSockets do not get through. Fit for use: ${working.map(row => row.name).join(", ")}; the client takes ${working[0].name}.${afterwards}`];
    return ["bad", "Nothing gets through as it should."];
  }
  report() {
    const lines = [`underpass self-test, ${this.started.toISOString().slice(0, 19)}Z, ${Math.round(this.lasted() / 1000)} s${this.over ? "" : " so far"}`];
    lines.push(`${location.origin}${base}${this.seen ? `, ${this.seen.server}, client seen as ${this.seen.client ?? "a local process"}` : ""}`, navigator.userAgent, "", this.verdict()[1], "");
    const titles = ["opens", "streams", "cut", "round trip", "128 KiB"];
    const said = row => row.cells().flatMap(([, words], at) => words === "–" ? [] : [`${titles[at]}: ${words}`]).join(" | ");
    for (const row of this.rows) lines.push(row.name.padEnd(11) + said(row));
    return [...lines, "", "changed on the way:", ...(this.notes.size ? [...this.notes].map(note => `- ${note}`) : ["- nothing to be seen"])].join("\n");
  }
}

// ---- The page. ----

function put(node, words, mood) {
  if (node.textContent !== words) node.textContent = words;
  if (mood !== undefined) node.dataset.mood = mood;
}

function paint() {
  const [mood, words] = run.verdict();
  put(element("verdict"), words, mood);
  const left = Math.max(0, run.seconds - run.lasted() / 1000);
  put(element("time"), run.over ? `Done, ${Math.round(run.lasted() / 1000)} s` : left > 0 ? `${Math.ceil(left)} s to go` : "Last round trips");
  element("bar").value = run.over ? 1 : Math.min(1, run.lasted() / 1000 / run.seconds);
  for (const row of run.rows) row.cells().forEach(([mood, words], at) => put(element(row.kind).cells[at + 1], words, words === "–" ? "none" : mood));
  const notes = run.notes.size ? [...run.notes] : [run.over ? "Nothing to be seen." : "Nothing to be seen so far."];
  if (element("notes").textContent !== notes.join("")) element("notes").replaceChildren(...notes.map(note => Object.assign(document.createElement("li"), { textContent: note })));
  const report = element("report");
  if (document.activeElement !== report || run.over) { const text = run.report(); if (report.value !== text) report.value = text; }
  element("longer").disabled = run.seconds >= 300 && !run.over;
  put(element("longer"), run.over ? "Run for 5 minutes" : "Go on for 5 minutes");
  element("stop").textContent = run.over ? "Run again" : "Stop";
}

function begin(seconds) { run = new Run(seconds); paint(); run.go(); }

element("stop").addEventListener("click", () => { if (run.over) begin(run.seconds); else run.finish(); });
element("longer").addEventListener("click", () => { if (run.over) begin(300); else { run.seconds = 300; paint(); } });
element("copy").addEventListener("click", async () => {
  element("report").select();
  try { await navigator.clipboard.writeText(element("report").value); } catch { document.execCommand("copy"); }
  put(element("copied"), "Copied.");
  setTimeout(() => put(element("copied"), ""), 3000);
});
document.addEventListener("visibilitychange", () => { if (document.hidden && !run.over) run.notes.add("the page was hidden meanwhile: browsers slow such pages down"); });
addEventListener("pagehide", () => run.finish());
for (const node of document.querySelectorAll("[data-of=host]")) node.textContent = location.host;
begin(Math.min(300, Math.max(8, Number(parameters.get("seconds")) || 60)));
setInterval(() => { if (!run.over) paint(); }, 300);
