const underpassAddress=(/^http/.test(globalThis.origin)?globalThis.origin:"http://localhost")+"/_underpass/client.mjs";
