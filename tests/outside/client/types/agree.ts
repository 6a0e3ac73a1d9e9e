// The types that are served (src/client/client.d.ts) are those of the script. Checked, not run.
import type underpass from "../../../../src/client/script/main.js";
import type * as script from "../../../../src/client/script/core/types.js";
import type * as served from "../../../../src/client/client.d.ts";

// One may stand for the other, and the other for the one.
type Agree<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
type Ours = typeof underpass;
type Members = "url" | "readyState" | "bufferedAmount" | "extensions" | "protocol" | "binaryType" | "onopen" | "onmessage" | "onerror" | "onclose" | "close";

export const agreements: [
  Agree<served.Options, script.Options>,
  Agree<keyof served.Options, keyof script.Options>,
  Agree<served.Options, Ours["options"]>,
  Agree<served.TransportChange, script.Change>,
  Agree<served.Transport, script.Change["transport"]>,
  Agree<typeof served.install, Ours["install"]>,
  Agree<Exclude<keyof typeof served, "default">, keyof Ours>,
  Agree<ConstructorParameters<typeof served.WebSocket>, ConstructorParameters<Ours["WebSocket"]>>,
  Agree<Pick<served.WebSocket, Members>, Pick<InstanceType<Ours["WebSocket"]>, Members>>,
  // Whatever the served type lets a page send, the script takes.
  Parameters<served.WebSocket["send"]> extends Parameters<InstanceType<Ours["WebSocket"]>["send"]> ? true : never,
] = [true, true, true, true, true, true, true, true, true, true];
