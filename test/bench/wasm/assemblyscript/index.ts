// Answers "ok".
import { Request, Response } from "./lambent";

let served = 0;

export function handle(): void {
  new Request();
  if (served++ > 0) {
    new Response(418).send("this instance is not pristine");
    return;
  }
  new Response(200).header("Content-Type", "text/plain").send("ok\n");
}
