import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { HOST, Shim, fetching, isError } from './harness.mjs';

test('what Request and Response say', async (t) => {
  const shim = await fetching(t, `export default { greeting: 'hello', async fetch(request, env, ctx) {
    const headers = new Headers({ 'X-Seen': request.headers.get('x-many'), 'Lambent-Error': 'internal', Connection: 'close', 'Content-Length': '1' });
    headers.append('Set-Cookie', 'a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT'); headers.append('Set-Cookie', 'b=2');
    return new Response([this.greeting, request.method, request.url, env.COLOUR, ctx.invocation, await request.text(),
      request.headers.get('lambent-invocation')].join(' '), { status: 201, headers });
  } }`, { env: { COLOUR: 'blue' } });
  const headers = [['Host', 'f.example:8080'], ['X-Forwarded-Proto', 'https'], ['X-Many', 'a'], ['X-Many', 'b']];
  const answer = await shim.call({ trigger: 'http', path: '/a%20b?c=d', headers, body: 'data' });
  assert.equal(answer.text, 'hello POST https://f.example:8080/a%20b?c=d blue inv-1 data ');
  assert.deepEqual([answer.status, answer.headers['x-seen'], answer.headers['set-cookie'], answer.error], [201, 'a, b', ['a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT', 'b=2'], undefined]);
  assert.match((await shim.call({ trigger: 'invoke', body: '{}' })).text, /POST http:\/\/localhost\/ blue inv-1 {}/);
  assert.match((await shim.call({ trigger: 'http', method: 'GET', body: 'lost' })).text, /GET/);
  isError(await shim.call({ trigger: 'http', method: 'TRACE' }), 'invalid_request', 'TRACE');
});

test('CommonJS and classes have fetch too', async (t) => {
  for (const code of [
    'module.exports = { fetch: () => new Response("cjs") }',
    'exports.default = { fetch: () => new Response("cjs") }',
    'module.exports = class { static fetch() { return new Response("cjs") } }',
  ]) {
    const shim = await Shim.start(t, { 'index.js': code }, { handler: 'index.default' });
    assert.equal((await shim.ready()).status, 204, code);
    assert.equal((await shim.call({ trigger: 'http', method: 'GET' })).text, 'cjs');
  }
});

test('a default export without fetch is refused', async (t) => {
  for (const code of ['export default () => 1', 'export default 7', 'export const handler = 1']) {
    const shim = await Shim.start(t, { 'index.mjs': code }, { handler: 'index.default' });
    isError(await shim.ready(), 'start_failed', 'default');
  }
});

test('streams both ways at once', async (t) => {
  const shim = await fetching(t, `export default { fetch(request) {
    return new Response(request.body.pipeThrough(new TransformStream({
      transform(chunk, out) { out.enqueue(new TextEncoder().encode(new TextDecoder().decode(chunk).toUpperCase())) } })));
  } }`);
  const feed = new PassThrough();
  const res = await shim.open({ trigger: 'http', body: feed });
  for (let i = 0; i < 20; i++) {
    feed.write(`piece ${i};`);
    assert.equal(String((await once(res, 'data'))[0]), `PIECE ${i};`);
  }
  feed.end();
  assert.deepEqual(await res.toArray(), []);
});

test('50 MB pass without being held', async (t) => {
  const shim = await fetching(t, `export default { async fetch(request) {
    let bytes = 0;
    for await (const chunk of request.body) bytes += chunk.length;
    let left = bytes;
    return new Response(new ReadableStream({ pull(out) {
      if (left <= 0) return out.close();
      out.enqueue(new Uint8Array(Math.min(left, 65536))); left -= 65536;
    } }), { headers: { 'X-Peak': String(process.memoryUsage.rss()) } });
  } }`);
  const feed = new PassThrough();
  const answer = shim.open({ trigger: 'http', body: feed });
  for (let i = 0; i < 800; i++) if (!feed.write(Buffer.alloc(65536))) await once(feed, 'drain');
  feed.end();
  const res = await answer;
  let bytes = 0;
  for await (const chunk of res) bytes += chunk.length;
  assert.equal(bytes, 800 * 65536);
  assert.ok(Number(res.headers['x-peak']) < 200 << 20, res.headers['x-peak']);
});

test('several at a time', async (t) => {
  const shim = await fetching(t, `let waiting = []; export default { async fetch() {
    await new Promise((go) => { waiting.push(go); if (waiting.length === 16) for (const each of waiting) each() });
    return new Response('met');
  } }`);
  const answers = await Promise.all(Array.from({ length: 16 }, () => shim.call({ trigger: 'http' })));
  assert.ok(answers.every(({ text }) => text === 'met'));
});

test('the head comes before the body, an empty body ends at once, HEAD has none', async (t) => {
  const shim = await fetching(t, `export default { fetch(request) {
    if (request.url.endsWith('/none')) return new Response(null, { status: 204 });
    if (request.method === 'HEAD') return new Response('body', { headers: { 'Content-Length': '4' } });
    return new Response(new ReadableStream({}), { headers: { 'Content-Type': 'text/event-stream' } });
  } }`);
  const res = await shim.open({ trigger: 'http', method: 'GET' });
  assert.equal(res.headers['content-type'], 'text/event-stream');
  res.destroy();
  assert.equal((await shim.call({ trigger: 'http', path: '/none' })).status, 204);
  const head = await shim.call({ trigger: 'http', method: 'HEAD' });
  assert.deepEqual([head.text, head.headers['content-length']], ['', '4']);
});

test('who leaves is noticed by signal, and by the stream that is cut', async (t) => {
  const shim = await fetching(t, `export default { fetch(request) {
    if (request.url.endsWith('/stream')) return new Response(new ReadableStream({ pull: (out) => out.enqueue(new Uint8Array(10)), cancel() { console.log('cancelled') } }));
    console.log('in');
    return new Promise((_, no) => request.signal.addEventListener('abort', () => { console.log('aborted'); no(request.signal.reason) }));
  } }`);
  for (const [path, said] of [['/stream', /cancelled\n/], ['/wait', /aborted\n/]]) {
    const socket = await shim.raw(`GET ${path} HTTP/1.1\r\n${HOST}\r\n`);
    await once(path === '/stream' ? socket : shim.process.stdout, 'data');
    let printed = '';
    shim.process.stdout.on('data', (chunk) => (printed += chunk));
    socket.end();
    socket.resume();
    await once(socket, 'end'); // it hangs up, too, once the handler is done
    while (!said.test(printed)) await once(shim.process.stdout, 'data');
  }
  shim.process.kill('SIGKILL');
  assert.equal(await shim.stderr, '');
});

test('failures', async (t) => {
  const shim = await fetching(t, `export default { async fetch(request) { return eval('(' + await request.text() + ')') } }`);
  for (const [code, error, part] of [
    ['null.x', 'handler_error', 'TypeError'],
    ['undefined', 'bad_response', 'undefined, not a Response'],
    ['null', 'bad_response', 'null, not a Response'],
    ['"text"', 'bad_response', 'string, not a Response'],
    ['{ statusCode: 200 }', 'bad_response', 'object, not a Response'],
    ['Response.error()', 'bad_response', 'status 0'],
    ['(() => { const r = new Response("x"); r.text(); return r })()', 'bad_response', 'used up'],
  ]) {
    const answer = await shim.call({ trigger: 'http', body: code });
    assert.equal(answer.status, 500);
    isError(answer, error, part);
  }
  const broken = 'new Response(new ReadableStream({ pull(out) { if (this.once) throw new Error("torn"); this.once = 1; out.enqueue(new Uint8Array(10)) } }))';
  await assert.rejects(shim.call({ trigger: 'http', body: broken }), { code: 'ECONNRESET' });
  shim.process.kill('SIGKILL');
  assert.match(await shim.stderr, /Error: torn/);
});

test('an uncaught exception fails all in flight and ends the process', async (t) => {
  const shim = await fetching(t, `export default { fetch(request) {
    if (request.url.endsWith('/throw')) setTimeout(() => { throw new Error('far away') });
    console.log('in');
    return new Promise(() => {});
  } }`);
  const first = shim.call({ trigger: 'http' });
  await once(shim.process.stdout, 'data');
  for (const answer of await Promise.all([first, shim.call({ trigger: 'http', path: '/throw' })])) isError(answer, 'handler_error', 'far away');
  assert.deepEqual(await shim.exited, [1, null]);
});

test('waitUntil outlives the answer, and a stop waits for it', async (t) => {
  const shim = await fetching(t, `export default { fetch(request, env, ctx) {
    ctx.waitUntil(new Promise((go) => setTimeout(() => { console.log('kept'); go() }, 200)));
    ctx.waitUntil(Promise.reject(new Error('lost')));
    return new Response('now');
  } }`);
  assert.equal((await shim.call({ trigger: 'http' })).text, 'now');
  shim.process.kill('SIGTERM');
  assert.deepEqual(await shim.exited, [0, null]);
  assert.equal(await shim.stdout, 'kept\n');
  assert.match(await shim.stderr, /Error: lost/);
});
