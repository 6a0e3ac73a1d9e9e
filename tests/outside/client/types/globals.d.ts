// What surrounds the script as it is served: src/client/mod.rs writes this before the module.
declare const underpassAddress: string;
