// Makes the script that is served of its modules: joined by Rollup, made small by Terser.
//
//   node tests/outside/client/tools/build.mjs           writes src/client/client.min.js
//   node tests/outside/client/tools/build.mjs --check   fails when that file is not what the sources make today
//
// Local names are always shortened; names of properties only when they stand in names.json. Such a name is the script's
// own: no other program, file or tab hears of it. That is checked: it may not be declared as part of what crosses the border
// (core/types.js, client.d.ts), and no text may say it, since a property can be named by a text.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { rollup } from "rollup";
import { parseAst } from "rollup/parseAst";
import { minify } from "terser";

const client = new URL("../../../../src/client/", import.meta.url);
const script = new URL("script/", client);
const result = new URL("client.min.js", client);

const HEAD = "// Made of src/client/script by tests/outside/client/tools/build.mjs. Edit those files, not this one.\n";

const read = (name, base) => readFileSync(new URL(name, base), "utf8");
const names = JSON.parse(read("names.json", import.meta.url));

// All parts of this code, but what it imports.
function* parts(node) {
  yield node;
  if (node.type === "ImportDeclaration") return;
  for (const child of Object.values(node).flat()) {
    if (child && typeof child.type === "string") yield* parts(child);
  }
}

// All that the texts of this code say, word by word.
function wordsSaid(node) {
  const texts = [...parts(node)].map(({ type, value }) => (type === "TemplateElement" ? value.raw : type === "Literal" ? value : ""));
  return texts.filter(text => typeof text === "string").flatMap(text => text.match(/\w+/g) || []);
}

function checkNames() {
  const files = readdirSync(script, { recursive: true }).filter(name => name.endsWith(".js"));
  const said = new Set(files.flatMap(name => wordsSaid(parseAst(read(name, script)))));
  const border = read("core/types.js", script) + read("client.d.ts", client);
  const declared = new Set([...border.matchAll(/@property \{.*\} \[?(\w+)|\b(\w+)\??:/g)].map(([, a, b]) => a || b));
  const wrong = names.filter(name => said.has(name) || declared.has(name));
  if (wrong.length) throw new Error(`names.json may not have ${wrong.join(", ")}: a text says it, or it crosses the border`);
}

// A name for each of names.json: none that the code has already, the shortest for those that are used most, of letters that
// compress well beside the local names.
function shortNames(code) {
  const letters = [..."tesnrociahlupdfgbymwvSkTAMOUxEjCRNLqJzBDIGHKPVFWQXYZ_$"];
  const used = [...parts(parseAst(code))].filter(({ type }) => type === "Identifier").map(({ name }) => name);
  const pairs = letters.flatMap(one => [..."tesn"].map(other => one + other));
  const free = [...letters, ...pairs].filter(name => !used.includes(name));
  const uses = name => used.filter(other => other === name).length;
  const order = [...names].sort((one, other) => uses(other) - uses(one));
  return Object.fromEntries(order.map((name, at) => [`$${name}`, free[at]]));
}

async function build() {
  const bundle = await rollup({ input: new URL("main.js", script).pathname, onwarn: warning => { throw new Error(warning.message); } });
  const { output } = await bundle.generate({ format: "iife", name: "underpass", exports: "default" });
  const { code } = await minify(output[0].code, {
    ecma: 2020,
    nameCache: { props: { props: shortNames(output[0].code) } },
    compress: { passes: 3, inline: 1, pure_getters: true, unsafe_arrows: true, unsafe_methods: true },
    // `builtins`: some of these names browsers have too, for things that this script does not use.
    mangle: { properties: { builtins: true, regex: new RegExp(`^(${names.join("|")})$`) } },
    // A page sees the class's name.
    keep_classnames: /^WebSocket$/,
  });
  return `${HEAD}${code}\n`;
}

checkNames();
const made = await build();
if (process.argv[2] === "--check") {
  if (made !== readFileSync(result, "utf8")) {
    console.error("src/client/client.min.js is not what src/client/script makes: run node tests/outside/client/tools/build.mjs");
    process.exit(1);
  }
} else {
  writeFileSync(result, made);
}
