// Puts the files of the package beside this one, from those that the sidecar serves; `npm pack` runs it first. Nothing of what it
// makes is kept in the repository, so nothing of it can be old.
//
//   client.js, client.d.ts   byte for byte what the sidecar serves
//   client.mjs               the same script and the same exports; its first line cannot say `import.meta.url`, which in a bundle
//                            is the bundle's address, so it says where the sidecar is: at the page's origin (address.js)
//
// Enters: src/client, the licenses. Leaves: the files that package.json names. Must not touch: the network.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";

const root = new URL("../../", import.meta.url);
const here = name => new URL(name, import.meta.url);
const read = name => readFileSync(new URL(name, root), "utf8");

// Its first line is for those who would edit it, and is not served (src/client/mod.rs).
const script = read("src/client/client.min.js").replace(/^.*\n/, "");
writeFileSync(here("client.js"), script);
writeFileSync(here("client.mjs"), read("packaging/npm/address.js") + script + read("src/client/module/exports.js"));
copyFileSync(new URL("src/client/client.d.ts", root), here("client.d.ts"));
for (const name of ["LICENSE-APACHE", "LICENSE-MIT"]) copyFileSync(new URL(name, root), here(name));
