// What a box does to a request: refuses it, or changes what is sent on.

const PAGE = "<!doctype html><p>Your organisation has other plans for you.</p>";
const texts = { 413: "too large", 414: "too long" };

// What it answers itself; nothing when the request passes.
export function refusal({ box, request, path, body }, switches) {
  const type = (request.headers["content-type"] || "").split(";")[0];
  const no = (name, status) => {
    box.strike(name);
    return { status, text: texts[status] || PAGE };
  };
  if (switches.portal) return no("portal", 200);
  if (switches.kill) return no("kill", switches.kill === true ? 403 : switches.kill);
  if (switches.methods && !switches.methods.includes(request.method)) return no("methods", 405);
  if (switches.types?.includes(type)) return no("types", 403);
  if (path.length > switches.url) return no("url", 414);
  if (body.length > switches.body) return no("body", 413);
}

// What is sent on. HTTP/1.1 of its own, one connection each, as the simplest of boxes do.
export function sent({ box, request, path }, { headers: others, only, rename }) {
  const headers = changed(request.headers, { headers: others, only, rename }, box);
  return { path, method: request.method, headers: { ...headers, connection: "close" } };
}

// Headers after `headers` or `answer`, `only` and `rename`.
export function changed(given, { headers, answer, only, rename }, box) {
  const left = { ...given }, strike = () => box.strike(answer ? "answer" : "headers");
  for (const [name, value] of Object.entries(answer || headers || {})) {
    if (value !== null) left[name] = value, strike();
    else if (name in left) delete left[name], strike();
  }
  for (const name in only ? left : {}) if (!only.includes(name)) delete left[name], box.strike("only");
  for (const [name, other] of Object.entries(rename || {})) {
    if (name in left) left[other] = left[name], delete left[name], box.strike("rename");
  }
  return left;
}
