import text from "static";

// Without an id nothing is kept: load gives a new isolate.
const code = { compatibilityDate: "2026-07-01", mainModule: "static.js", modules: { "static.js": text }, globalOutbound: null };

export default { fetch: (request, env) => env.LOADER.load(code).getEntrypoint().fetch(request) };
