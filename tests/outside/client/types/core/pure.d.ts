// All that the core may use beside the language itself: conversions. Nothing of the page, the network or the time is here,
// so that the core cannot be checked with these types and yet use it.
declare class URL {
  constructor(url: string, base?: string);
  readonly href: string;
}
declare class TextDecoder {
  constructor(label: string, options: { ignoreBOM: boolean });
  decode(bytes: Uint8Array): string;
}
declare function atob(text: string): string;
declare function btoa(text: string): string;
// Passed on, never looked at.
interface Blob {}
