'use strict';

const { Readable } = require('node:stream');
const { isHopByHop, isOurs } = require('./fields.cjs');
const { Failure } = require('./report.cjs');

/** Gives the web-standard Request of a request; signal tells when its caller has left. */
function toRequest(req, signal) {
  const { rawHeaders, method } = req;
  const headers = new Headers();
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (!isOurs(rawHeaders[i]) && !isHopByHop(rawHeaders[i])) headers.append(rawHeaders[i], rawHeaders[i + 1]);
  }
  const proto = headers.get('x-forwarded-proto') ?? 'http';
  const hasBody = 'content-length' in req.headers || 'transfer-encoding' in req.headers;
  const body = hasBody && method !== 'GET' && method !== 'HEAD' ? Readable.toWeb(req) : null;
  try {
    return new Request(`${proto}://${headers.get('host') || 'localhost'}${req.url}`, { method, headers, body, duplex: 'half', signal });
  } catch (error) {
    throw new Failure('invalid_request', 'Request', `no Request can be made of it: ${error.message}`);
  }
}

/** Answers with a web-standard Response. What its body throws is thrown, with the answer begun. */
async function send(response, req, res) {
  if (typeof response?.status !== 'number' || typeof response.headers?.entries !== 'function') {
    throw bad(`${response === null ? 'null' : `a value of type ${typeof response}`}, not a Response`);
  }
  if (response.status < 200 || response.status > 599) throw bad(`a Response of status ${response.status}`);
  if (response.bodyUsed || response.body?.locked) throw bad('a Response whose body is in use or used up');
  // A body that was decoded on its way, as fetch does, has another length than its field says.
  const fields = [...response.headers].filter(([name]) => name !== 'set-cookie' &&
    !isHopByHop(name) && !isOurs(name) && (name !== 'content-length' || req.method === 'HEAD'));
  fields.push(...cookiesOf(response.headers).map((cookie) => ['set-cookie', cookie]));
  res.writeHead(response.status, fields.flat());
  if (!response.body || req.method === 'HEAD') {
    await response.body?.cancel();
    res.end();
    return;
  }
  res.flushHeaders();
  const reader = response.body.getReader();
  let proceed;
  res.on('drain', () => proceed?.());
  res.on('close', () => {
    proceed?.();
    reader.cancel().catch(() => {}); // nobody is left to tell
  });
  for (let part; !(part = await reader.read()).done && !res.destroyed; ) {
    if (!res.write(part.value)) await new Promise((resolve) => (proceed = resolve));
  }
  res.end();
}

// The Headers of Debian's Node.js 18 joins cookies by commas; within one, only a date has a comma (RFC 6265).
function cookiesOf(headers) {
  return headers.getSetCookie?.() ?? headers.get('set-cookie')?.split(/, (?=[^;,= ]+=)/) ?? [];
}

function bad(what) {
  return new Failure('bad_response', 'BadResponse', `fetch gave ${what}`);
}

module.exports = { toRequest, send };
