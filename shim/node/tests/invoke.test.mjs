import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { HOST, isError, started } from './harness.mjs';

const ECHO = 'exports.handler = async (event) => event';

test('JSON both ways', async (t) => {
  const shim = await started(t, ECHO);
  for (const value of [{}, { a: [1, 2.5, null, true, 'é😀\u2028'] }, [], 'text', 0, null, 'x'.repeat(3_000_000)]) {
    const answer = await shim.invoke(value);
    assert.deepEqual([answer.status, answer.headers['content-type']], [200, 'application/json'], answer.text);
    assert.deepEqual(answer.json(), value);
  }
  assert.equal((await shim.call({})).text, '{}', 'an empty body is an empty object');
});

test('invalid JSON is told with its position', async (t) => {
  const shim = await started(t, ECHO);
  for (const [body, part] of [
    ['{"a": }', 'line 1 column 7'],
    ['{}x', 'line 1 column 3'],
    ['{"a": 1,\n "b": [1, 2,, 3]}', 'line 2 column 13'],
    ['{"a" 1}', 'line 1 column 6'],
    ['{"a": 1,}', 'line 1 column 9'],
    ['[1 2]', 'line 1 column 4'],
    ['[1, 2', 'line 1 column 6'],
    ['  ', 'line 1 column 3'],
    ['{1: 2}', 'line 1 column 2'],
    ['"a\nb"', 'line 1 column 1'],
    ['[01]', 'line 1 column 3'],
    ['}', 'line 1 column 1'],
    ['NaN', 'line 1 column 1'],
    ['['.repeat(100_000), 'line 1 column 100001'],
    [Buffer.from([0x22, 0xff, 0x22]), 'not UTF-8'],
  ]) {
    const answer = await shim.call({ body });
    assert.equal(answer.status, 400);
    isError(answer, 'invalid_json', part);
  }
});

test('what is no JSON', async (t) => {
  for (const [code, ...parts] of [
    ['({ items: [0, { n: 1n }] })', 'BigInt', '(at "n")'],
    ['1n', 'BigInt'],
    ['{ const x = {}; x.x = x; return x }', 'circular'],
    ['() => 1', 'it is of type function'],
    ['Symbol()', 'it is of type symbol'],
    ['({ toJSON() { throw new Error("mine") } })', 'mine'],
  ]) {
    const shim = await started(t, `exports.handler = () => ${code}`);
    const answer = await shim.call();
    assert.equal(answer.status, 500);
    isError(answer, 'bad_response', ...parts);
    assert.equal((await shim.call()).status, 500, 'it goes on');
  }
});

test('results', async (t) => {
  for (const [code, want] of [
    ['() => 1', '1'],
    ['() => {}', 'null'],
    ['async () => undefined', 'null'],
    ['async (event, context) => [1]', '[1]'],
    ['(event, context) => ({ then(go) { go("later") } })', '"later"'],
    ['(event, context, callback) => { setTimeout(callback, 1, null, { a: 1 }) }', '{"a":1}'],
    ['(event, context, callback) => callback(undefined, 7)', '7'],
    ['(event, context, callback) => { callback(null, 1); callback(null, 2); callback("no") }', '1'],
    ['async (event, context, callback) => 5', '5'],
    ['() => new Date(0)', '"1970-01-01T00:00:00.000Z"'],
    ['() => NaN', 'null'],
  ]) {
    assert.equal((await (await started(t, `exports.handler = ${code}`)).call()).text, want, code);
  }
});

test('context', async (t) => {
  const shim = await started(t, 'exports.handler = (e, c) => ({ ...c, left: c.getRemainingTimeInMillis() })');
  const { left, ...got } = (await shim.call()).json();
  assert.ok(left > 25_000 && left <= 30_000);
  assert.deepEqual(got, {
    awsRequestId: 'inv-1',
    callbackWaitsForEmptyEventLoop: false,
    functionName: 'f',
    functionVersion: 'r1',
    invokedFunctionArn: 'arn:lambent:lambda:local:default:function:f',
    memoryLimitInMB: '256',
    logGroupName: '/lambent/default/f',
    logStreamName: 'i1',
  });
});

test('handler errors', async (t) => {
  for (const [code, ...parts] of [
    ['() => { throw new TypeError("no") }', 'TypeError: no'],
    ['async () => { throw new (class Mine extends Error {})("no") }', 'Mine: no'],
    ['(e, c, callback) => callback(new Error("told"))', 'Error: told'],
    ['(e, c, callback) => callback("words")', 'string: words'],
    ['() => Promise.reject()', 'undefined: undefined'],
    ['() => { throw Object.create(null) }', 'cannot be read'],
    ['() => { throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 1 } }) }', ''],
    ['() => { const e = new Error(); Object.defineProperty(e, "message", { get() { throw 1 } }); throw e }', 'cannot be read'],
    ['() => { const e = new Error("m"); e[Symbol.for("nodejs.util.inspect.custom")] = () => { throw 1 }; throw e }', 'Error: m'],
    ['function f() { f() }', 'RangeError'],
    ['() => { throw new Error("x".repeat(100_000)) }', 'Error: xxx'],
  ]) {
    const shim = await started(t, `exports.handler = ${code}`);
    for (let i = 0; i < 2; i++) {
      const answer = await shim.call();
      assert.equal(answer.status, 500);
      assert.ok(answer.body.length < 200_000);
      isError(answer, 'handler_error', ...parts);
    }
  }
});

test('a handler that can never settle is told so, and the next call is served', async (t) => {
  const shim = await started(t, `exports.handler = (event) => event.hang ? new Promise(() => setTimeout(() => {}, 10)) : 'fine'`);
  for (let i = 0; i < 3; i++) {
    isError(await shim.invoke({ hang: true }), 'handler_error', 'never settled');
    assert.equal((await shim.invoke({})).text, '"fine"');
  }
  isError(await (await started(t, 'exports.handler = (a, b, callback) => 1')).call(), 'handler_error', 'never settled');
});

test('an uncaught exception or rejection fails the call and ends the process', async (t) => {
  for (const [code, part] of [
    ['() => new Promise(() => setTimeout(() => { throw new RangeError("far away") }, 1))', 'RangeError: far away'],
    ['() => new Promise(() => { Promise.reject(new RangeError("nobody looked")) })', 'RangeError: nobody looked'],
    ['() => new Promise(() => { Promise.reject(7) })', '7'],
  ]) {
    const shim = await started(t, `exports.handler = ${code}`);
    const answer = await shim.call();
    isError(answer, 'handler_error', part);
    assert.equal(answer.headers.connection, 'close');
    assert.deepEqual(await shim.exited, [1, null]);
    assert.ok((await shim.stderr).includes(part));
  }
});

test('an uncaught exception between calls ends the process; who comes then finds nobody', async (t) => {
  const shim = await started(t, 'exports.handler = () => { setTimeout(() => { throw new Error("late") }, 5); return 1 }');
  assert.equal((await shim.call()).text, '1');
  assert.deepEqual(await shim.exited, [1, null]);
  await assert.rejects(shim.call(), { code: 'ECONNREFUSED' });
});

test('a function that handles uncaught exceptions is left alone', async (t) => {
  const shim = await started(t, `
    process.on('uncaughtException', (error) => console.log('seen', error.message));
    exports.handler = () => new Promise((go) => { setTimeout(() => { setTimeout(go, 1, 'on'); throw new Error('x') }, 1) })`);
  assert.equal((await shim.call()).text, '"on"');
  shim.process.kill('SIGKILL');
  assert.equal(await shim.stdout, 'seen x\n');
});

test('an exit ends the process, and nothing that was printed is lost', async (t) => {
  const shim = await started(t, 'exports.handler = () => { console.log("x".repeat(1 << 20)); process.exit(9) }');
  await assert.rejects(shim.call(), { code: 'ECONNRESET' });
  assert.deepEqual(await shim.exited, [9, null]);
  assert.equal((await shim.stdout).length, (1 << 20) + 1);
});

test('what is printed is out before the answer', async (t) => {
  const shim = await started(t, 'exports.handler = () => { process.stdout.write("o".repeat(200_000)); process.stderr.write("e"); return 1 }');
  const socket = await shim.raw(`POST / HTTP/1.1\r\n${HOST}\r\n`);
  await once(socket, 'data');
  socket.destroy();
  shim.process.kill('SIGKILL'); // whatever it still held would be lost
  assert.deepEqual([(await shim.stdout).length, await shim.stderr], [200_000, 'e']);
});

test('a broken output does not cost the answer', async (t) => {
  const deaf = await started(t, 'exports.handler = () => { console.log("x".repeat(100_000)); return 1 }');
  deaf.process.stdout.destroy();
  deaf.stdout.catch(() => {});
  for (let i = 0; i < 2; i++) assert.equal((await deaf.call()).text, '1');
});

test('SIGTERM lets the call in flight finish', async (t) => {
  const shim = await started(t, 'exports.handler = () => new Promise((go) => { console.log("in"); setTimeout(go, 200, "done") })');
  const answer = shim.call();
  await once(shim.process.stdout, 'data');
  shim.process.kill('SIGTERM');
  assert.equal((await answer).text, '"done"');
  assert.deepEqual(await shim.exited, [0, null]);
});

test('SIGTERM ends an idle process, timers or not; the function may handle it itself', async (t) => {
  const idle = await started(t, 'setInterval(() => {}, 1000); exports.handler = () => 1');
  const kept = await idle.raw(`POST / HTTP/1.1\r\n${HOST}\r\n`); // with a connection that the host keeps
  await once(kept, 'data');
  idle.process.kill('SIGTERM');
  assert.deepEqual(await idle.exited, [0, null]);
  const own = await started(t, 'process.on("SIGTERM", () => process.exit(5)); exports.handler = () => 1');
  own.process.kill('SIGTERM');
  assert.deepEqual(await own.exited, [5, null]);
});

test('a connection whose caller has left stays until the handler is done', async (t) => {
  const shim = await started(t, 'exports.handler = () => new Promise((go) => { console.log("in"); setTimeout(() => { console.log("end"); go(1) }, 300) })');
  const socket = await shim.raw(`POST / HTTP/1.1\r\n${HOST}\r\n`);
  await once(shim.process.stdout, 'data');
  socket.end();
  let printed = '';
  shim.process.stdout.on('data', (chunk) => (printed += chunk));
  socket.resume();
  await once(socket, 'end');
  assert.equal(printed, 'end\n');
});

test('what the host would not send', async (t) => {
  const shim = await started(t, ECHO);
  for (const [request, part] of [
    ['nonsense\r\n\r\n', 'cannot be read'],
    ['GET / HTTP/1.1\r\nHost: f\r\n\r\n', 'a header of the host'],
    [`GET / HTTP/1.1\r\n${HOST.replace('http', 'odd')}\r\n`, 'a header of the host'],
    [`GET / HTTP/1.1\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`, 'cannot be read'],
    [`POST / HTTP/1.1\r\n${HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`, 'cannot be read'],
  ]) {
    const socket = await shim.raw(request);
    let got = '';
    socket.on('error', () => {}); // it is closed while we may still write
    socket.on('data', (chunk) => (got += chunk) && got.includes('trace') && socket.destroy());
    await once(socket, 'close');
    assert.ok(got.includes('Lambent-Error: invalid_request') && got.includes(part), got);
  }
  assert.equal((await shim.invoke(1)).text, '1');
});
