// Makes slugs, such as stand in URLs, of titles: GET /?text=Crème%20brûlée, or POST with a title in each line.

import { Request, Response } from "./lambent";

// What letters become that are neither a-z nor 0-9; all others part words.
const plain = new Map<string, string>();
function become(to: string, letters: string): void {
  for (let i = 0; i < letters.length; i++) plain.set(letters.charAt(i), to);
}
become("a", "àáâãåāăą"); become("c", "çćĉċč"); become("d", "ďđð"); become("e", "èéêëēĕėęě"); become("g", "ĝğġģ");
become("h", "ĥħ"); become("i", "ìíîïĩīĭįı"); become("j", "ĵ"); become("k", "ķ"); become("l", "ĺļľŀł"); become("n", "ñńņňŉ");
become("o", "òóôõøōŏő"); become("r", "ŕŗř"); become("s", "śŝşšș"); become("t", "ţťŧț"); become("u", "ùúûũūŭůűų");
become("w", "ŵ"); become("y", "ýÿŷ"); become("z", "źżž");
become("ae", "äæ"); become("oe", "öœ"); become("ue", "ü"); become("ss", "ß"); become("th", "þ"); become("", "'’");

function slug(title: string): string {
  let out = "", gap = false;
  const text = title.toLowerCase();
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i), letter = text.charAt(i);
    let to = letter;
    if (!((c >= 97 && c <= 122) || (c >= 48 && c <= 57))) {
      if (!plain.has(letter)) {
        gap = true;
        continue;
      }
      to = plain.get(letter);
    }
    if (gap && out.length > 0 && to.length > 0) out += "-";
    if (to.length > 0) gap = false;
    out += to;
  }
  return out;
}

function parameter(query: string, name: string): string | null {
  const parts = query.split("&");
  for (let i = 0; i < parts.length; i++) {
    if (parts[i].startsWith(name + "=")) return decodeURIComponent(parts[i].substring(name.length + 1).replaceAll("+", " "));
  }
  return null;
}

export function handle(): void {
  const request = new Request();
  const response = new Response(200).header("Content-Type", "text/plain; charset=utf-8");
  const text = parameter(request.query, "text");
  const titles = (text !== null ? text : request.text()).trimEnd().split("\n");
  for (let i = 0; i < titles.length; i++) response.send(slug(titles[i]) + "\n");
}
