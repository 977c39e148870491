// The conformance function as a reactor in AssemblyScript.
import { Request, Response, env, log, time } from "./lambent";

export function handle(): void {
  const r = new Request();
  const plain = "text/plain; charset=utf-8";
  if (r.path == "/hello") {
    new Response().header("Content-Type", plain).send("hello\n");
  } else if (r.path == "/echo") {
    const w = new Response(200)
      .header("Content-Type", r.header("content-type")!)
      .header("X-Request", r.method + " " + r.path + " " + r.query)
      .header("X-Tag", r.header("X-TAG") || "");
    w.send();
    const buf = new Uint8Array(8192);
    for (let n = r.read(buf); n > 0; n = r.read(buf)) w.write(buf.subarray(0, n));
  } else if (r.path == "/count") {
    new Response().header("Content-Type", plain).send(r.bytes().length.toString() + "\n");
  } else if (r.path == "/big") {
    const w = new Response().header("Content-Type", plain);
    const n = I32.parseInt(r.query);
    for (let i = 0; i < n; i++) w.send("x".repeat(1023) + "\n");
  } else if (r.path == "/teapot") {
    new Response(418).header("Set-Cookie", "a=1").header("Set-Cookie", "b=2").send("short and stout");
  } else if (r.path == "/env") {
    const none = env("NONE");
    new Response().header("Content-Type", plain).send(env("COLOUR")! + (none ? none : ""));
  } else if (r.path == "/log") {
    log("one line");
    new Response().header("Content-Type", plain).send("logged");
  } else if (r.path == "/random") {
    trace("now", 1, <f64>time());
    new Response().header("Content-Type", plain).send(Math.random().toString());
  } else if (r.path == "/panic") {
    throw new Error("on purpose");
  } else if (r.path == "/partly") {
    new Response().header("Content-Type", plain).send("half of it");
    throw new Error("on purpose");
  } else if (r.path == "/bad") {
    new Response().header("A B", "c").send();
  } else if (r.path == "/inject") {
    new Response(303).header("Location", "/\0Set-Cookie\0id=1").send();
  }
}
