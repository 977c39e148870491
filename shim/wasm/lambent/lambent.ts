// lambent.ts: answer HTTP requests as a WebAssembly module of Lambent, in AssemblyScript.
//
//     import { Request, Response } from "./lambent";
//
//     export function handle(): void {
//       const request = new Request();
//       new Response(200).header("Content-Type", "text/plain").send("hello from " + request.path);
//     }
//
// Compile it with: asc index.ts -O -o main.wasm --use abort=lambent_abort --use seed=lambent_seed --use trace=lambent_trace
//
// handle is called once for each request, in a fresh copy of the module as it was when it had been initialised: nothing
// that one request leaves in memory is there for the next. An error that is thrown is the failure of the request, and in
// the log.

// @ts-ignore: decorator
@external("lambent_v1", "request")
declare function hostRequest(buf: usize, cap: u32): u32;
// @ts-ignore: decorator
@external("lambent_v1", "read")
declare function hostRead(buf: usize, cap: u32): u32;
// @ts-ignore: decorator
@external("lambent_v1", "respond")
declare function hostRespond(status: i32, buf: usize, len: u32): void;
// @ts-ignore: decorator
@external("lambent_v1", "write")
declare function hostWrite(buf: usize, len: u32): void;
// @ts-ignore: decorator
@external("lambent_v1", "log")
declare function hostLog(buf: usize, len: u32): void;
// @ts-ignore: decorator
@external("lambent_v1", "env")
declare function hostEnv(name: usize, nameLen: u32, buf: usize, cap: u32): i32;
// @ts-ignore: decorator
@external("lambent_v1", "random")
declare function hostRandom(buf: usize, len: u32): void;
// @ts-ignore: decorator
@external("lambent_v1", "time")
declare function hostTime(): i64;

/** A request. Its body is read as it comes. */
export class Request {
  method: string = "";
  /** Path and query, as they were sent. */
  target: string = "";
  /** The target without its query. */
  path: string = "";
  /** What follows the first ? of the target; empty where there is none. */
  query: string = "";
  host: string = "";
  proto: string = "";
  /** Length of the body in bytes, -1 when it is unknown. */
  length: i64 = -1;
  /** Names and values of the header, in turns. */
  fields: string[] = [];

  constructor() {
    let head = new ArrayBuffer(4096);
    let size = hostRequest(changetype<usize>(head), head.byteLength);
    if (size > <u32>head.byteLength) {
      head = new ArrayBuffer(size);
      size = hostRequest(changetype<usize>(head), size);
    }
    const start = changetype<usize>(head);
    let from = start, at = start, n = 0;
    for (; at < start + size; at++) {
      if (load<u8>(at) != 0) continue;
      const text = String.UTF8.decodeUnsafe(from, at - from);
      from = at + 1;
      switch (n++) {
        case 0: this.method = text; break;
        case 1: this.target = text; break;
        case 2: this.host = text; break;
        case 3: this.proto = text; break;
        case 4: if (text.length > 0) this.length = I64.parseInt(text); break;
        default: this.fields.push(text);
      }
    }
    const mark = this.target.indexOf("?");
    this.path = mark < 0 ? this.target : this.target.substring(0, mark);
    this.query = mark < 0 ? "" : this.target.substring(mark + 1);
  }

  /** The first field of that name, in whatever case. */
  header(name: string): string | null {
    name = name.toLowerCase();
    for (let i = 0; i + 1 < this.fields.length; i += 2) {
      if (this.fields[i].toLowerCase() == name) return this.fields[i + 1];
    }
    return null;
  }

  /** Reads what there is of the body into buf and gives its length; 0 is the end. */
  read(buf: Uint8Array): i32 {
    return <i32>hostRead(buf.dataStart, buf.byteLength);
  }

  /** Reads the rest of the body. */
  bytes(): Uint8Array {
    let all = new Uint8Array(this.length > 0 && this.length < 1 << 20 ? <i32>this.length : 4096);
    let n = 0;
    for (;;) {
      if (n == all.length) {
        if (<i64>n == this.length) break;
        const more = new Uint8Array(2 * n);
        more.set(all);
        all = more;
      }
      const got = <i32>hostRead(all.dataStart + n, all.length - n);
      if (got == 0) break;
      n += got;
    }
    return all.subarray(0, n);
  }

  /** Reads the rest of the body as UTF-8. */
  text(): string {
    const all = this.bytes();
    return String.UTF8.decodeUnsafe(all.dataStart, all.byteLength);
  }
}

/** The head of an answer, which is given with the first piece of the body. */
export class Response {
  private fields: string = "";
  private sent: bool = false;

  /** The status is from 200 to 599. */
  constructor(public status: i32 = 200) {}

  /**
   * Adds a field. A name or value that is none makes the answer a bad one; a NUL in it is an error, as more fields could
   * follow it.
   */
  header(name: string, value: string): Response {
    if (name.includes("\0") || value.includes("\0")) throw new Error("lambent: there is a NUL byte in a field of the header");
    this.fields += name + "\0" + value + "\0";
    return this;
  }

  /** Writes a piece of the body. The host gathers small ones. */
  write(piece: Uint8Array): void {
    this.begin();
    hostWrite(piece.dataStart, piece.byteLength);
  }

  /** Writes a text as a piece of the body; without one it gives the head. */
  send(text: string = ""): void {
    this.begin();
    const bytes = String.UTF8.encode(text);
    hostWrite(changetype<usize>(bytes), bytes.byteLength);
  }

  private begin(): void {
    if (this.sent) return;
    this.sent = true;
    const bytes = String.UTF8.encode(this.fields);
    hostRespond(this.status, changetype<usize>(bytes), bytes.byteLength);
  }
}

/** Writes a line to the log. */
export function log(text: string): void {
  const bytes = String.UTF8.encode(text);
  hostLog(changetype<usize>(bytes), bytes.byteLength);
}

/** A variable of the function's environment, null where it is not set. */
export function env(name: string): string | null {
  const key = String.UTF8.encode(name);
  let value = new ArrayBuffer(256);
  let size = hostEnv(changetype<usize>(key), key.byteLength, changetype<usize>(value), value.byteLength);
  if (size < 0) return null;
  if (size > value.byteLength) {
    value = new ArrayBuffer(size);
    hostEnv(changetype<usize>(key), key.byteLength, changetype<usize>(value), size);
  }
  return String.UTF8.decodeUnsafe(changetype<usize>(value), size);
}

/** Fills buf with random bytes that are fit for cryptography. */
export function random(buf: Uint8Array): void {
  hostRandom(buf.dataStart, buf.byteLength);
}

/** The time in nanoseconds since 1970 began, UTC. */
export function time(): i64 {
  return hostTime();
}

// What a program in AssemblyScript needs of its host by itself, where it is told to --use these.

// @ts-ignore: decorator
@global
function lambent_abort(message: string | null, file: string | null, line: u32, column: u32): void {
  log("abort: " + (message ? message : "") + " at " + (file ? file : "") + ":" + line.toString() + ":" + column.toString());
  unreachable();
}

// @ts-ignore: decorator
@global
function lambent_seed(): f64 {
  const bits = memory.data(8);
  hostRandom(bits, 8);
  return reinterpret<f64>((load<u64>(bits) >> 12) | 0x3ff0000000000000) - 1.0;
}

// @ts-ignore: decorator
@global
function lambent_trace(message: string, n: i32 = 0, a0: f64 = 0, a1: f64 = 0, a2: f64 = 0, a3: f64 = 0, a4: f64 = 0): void {
  const values: f64[] = [a0, a1, a2, a3, a4];
  log("trace: " + message + (n > 0 ? " " + values.slice(0, n).join(" ") : ""));
}
