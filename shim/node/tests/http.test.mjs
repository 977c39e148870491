import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { isError, started } from './harness.mjs';

const ECHO = 'exports.handler = async (event) => ({ statusCode: 200, body: JSON.stringify(event) })';

async function eventOf(shim, options) {
  const answer = await shim.call({ trigger: 'http', ...options });
  assert.equal(answer.status, 200, answer.text);
  return answer.json();
}

test('all fields of an event', async (t) => {
  const got = await eventOf(await started(t, ECHO), {
    path: '/a%20b/%C3%A9?q=1&q=2&e=&x=a%2Bb+c&%C3%A9=%zz&__proto__=p',
    headers: [
      ['Host', 'f.default.localhost:8080'], ['User-Agent', 'test/1'], ['X-Forwarded-For', '203.0.113.9, 198.51.100.2'],
      ['X-Many', 'a'], ['x-many', 'b'], ['Cookie', 'a=1; b=2'], ['Cookie', 'c=3'], ['Content-Type', 'application/json'],
      ['Connection', 'keep-alive'],
    ],
    body: '{"x": 1}',
  });
  const { time, timeEpoch } = got.requestContext;
  assert.ok(Math.abs(Date.now() - timeEpoch) < 60_000);
  assert.match(time, /^\d\d\/[A-Z][a-z][a-z]\/\d{4}:\d\d:\d\d:\d\d \+0000$/);
  delete got.headers.connection;
  assert.deepEqual(got, {
    version: '2.0',
    routeKey: '$default',
    rawPath: '/a b/é',
    rawQueryString: 'q=1&q=2&e=&x=a%2Bb+c&%C3%A9=%zz&__proto__=p',
    cookies: ['a=1', 'b=2', 'c=3'],
    headers: {
      host: 'f.default.localhost:8080', 'user-agent': 'test/1', 'x-forwarded-for': '203.0.113.9, 198.51.100.2',
      'x-many': 'a,b', 'content-type': 'application/json', 'content-length': '8',
    },
    queryStringParameters: JSON.parse('{"q": "1,2", "e": "", "x": "a+b c", "é": "%zz", "__proto__": "p"}'),
    requestContext: {
      accountId: 'default', apiId: 'f', authentication: null, authorizer: null,
      domainName: 'f.default.localhost', domainPrefix: 'f',
      http: { method: 'POST', path: '/a b/é', protocol: 'HTTP/1.1', sourceIp: '198.51.100.2', userAgent: 'test/1' },
      requestId: 'inv-1', routeKey: '$default', stage: '$default', time, timeEpoch,
    },
    body: '{"x": 1}',
    pathParameters: null,
    isBase64Encoded: false,
    stageVariables: null,
  });
});

test('a custom route', async (t) => {
  const got = await eventOf(await started(t, ECHO), {
    path: '/users/a%20b', headers: [['Lambent-Route', 'GET%20%2Fusers%2F%7Bid%7D'], ['Lambent-Path-Parameters', 'id=a+b%2F%C3%A9&rest=']],
  });
  assert.deepEqual([got.routeKey, got.requestContext.routeKey], ['GET /users/{id}', 'GET /users/{id}']);
  assert.deepEqual(got.pathParameters, { id: 'a b/é', rest: '' });
  assert.ok(!('lambent-route' in got.headers));
});

test('nothing optional', async (t) => {
  const got = await eventOf(await started(t, ECHO), { method: 'GET' });
  assert.deepEqual([got.cookies, got.queryStringParameters, got.body, got.isBase64Encoded], [[], {}, null, false]);
  assert.equal(got.requestContext.http.sourceIp, '');
});

test('hosts and paths', async (t) => {
  const shim = await started(t, ECHO);
  for (const [host, want] of [['a.b', 'a.b'], ['a.b:80', 'a.b'], ['[::1]', '[::1]'], ['[::1]:80', '[::1]']]) {
    assert.equal((await eventOf(shim, { headers: [['Host', host]] })).requestContext.domainName, want);
  }
  for (const [path, want] of [['/%', '/%'], ['/%4', '/%4'], ['/%2f%2B+', '//++'], ['/%ff', '/\ufffd']]) {
    assert.equal((await eventOf(shim, { path })).rawPath, want);
  }
});

test('bodies', async (t) => {
  const shim = await started(t, ECHO);
  for (const [type, bytes, base64, encoding] of [
    ['text/plain', 't', false],
    ['Application/JSON; charset=utf-8', '{}', false],
    ['application/problem+json', '{}', false],
    ['application/x-www-form-urlencoded', 'a=b', false],
    ['application/octet-stream', 'text', true],
    ['image/png', [0x89, 0x50], true],
    ['text/plain', [0xff], true],
    ['text/plain', 'x', true, 'gzip'],
    [null, 'text', false],
    [null, [0xff, 0], true],
  ]) {
    const headers = [];
    if (type) headers.push(['Content-Type', type]);
    if (encoding) headers.push(['Content-Encoding', encoding]);
    const got = await eventOf(shim, { headers, body: Buffer.from(bytes) });
    assert.equal(got.isBase64Encoded, base64, `${type} ${bytes}`);
    assert.deepEqual(Buffer.from(got.body, base64 ? 'base64' : 'utf8'), Buffer.from(bytes));
  }
  assert.equal((await eventOf(shim, { body: Readable.from(['one ', 'two ', 'x'.repeat(100_000)]) })).body, 'one two ' + 'x'.repeat(100_000));
});

test('results', async (t) => {
  for (const [code, status, body] of [
    ['({ statusCode: 201, body: "é" })', 201, 'é'],
    ['({ statusCode: 204, body: "dropped" })', 204, ''],
    ['({ statusCode: 304 })', 304, ''],
    ['({ statusCode: 200 })', 200, ''],
    ['({ statusCode: 200, body: null, headers: null, cookies: null, isBase64Encoded: null })', 200, ''],
    ['({ statusCode: 200, body: "w6k=", isBase64Encoded: true })', 200, 'é'],
    ['({ a: 1 })', 200, '{"a":1}'],
    ['"plain"', 200, 'plain'],
    ['[1, "x"]', 200, '[1,"x"]'],
    ['undefined', 200, 'null'],
  ]) {
    const answer = await (await started(t, `exports.handler = () => ${code}`)).call({ trigger: 'http' });
    assert.deepEqual([answer.status, answer.text, answer.headers['content-type']], [status, body, 'application/json'], code);
  }
});

test('binary both ways', async (t) => {
  const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, i) => i % 256));
  const shim = await started(t, 'exports.handler = async (e) => ({ statusCode: 200, headers: { "Content-Type": "image/png" }, body: e.body, isBase64Encoded: e.isBase64Encoded })');
  const answer = await shim.call({ trigger: 'http', body: bytes, headers: [['Content-Type', 'image/png']] });
  assert.ok(answer.body.equals(bytes) && answer.headers['content-type'] === 'image/png');
});

test('headers and cookies', async (t) => {
  const headers = {
    'content-type': 'text/plain', 'X-Int': 1, 'X-Bool': true, 'X-Latin': 'é', Connection: 'upgrade', 'Content-Length': '99',
    'Transfer-Encoding': 'chunked', 'Lambent-Error': 'internal', Upgrade: 'x',
  };
  const result = { statusCode: 200, headers, cookies: ['a=1', 'b=2'], body: 'x' };
  const answer = await (await started(t, `exports.handler = () => (${JSON.stringify(result)})`)).call({ trigger: 'http' });
  const { connection, ...got } = answer.headers;
  assert.deepEqual(got, { 'content-type': 'text/plain', 'x-int': '1', 'x-bool': 'true', 'x-latin': 'é', 'set-cookie': ['a=1', 'b=2'], 'content-length': '1' });
  assert.notEqual(connection, 'upgrade');
});

test('HEAD has no body', async (t) => {
  const answer = await (await started(t, 'exports.handler = () => ({ statusCode: 200, body: "four" })')).call({ trigger: 'http', method: 'HEAD' });
  assert.deepEqual([answer.text, answer.headers['content-length']], ['', '4']);
});

test('bad responses', async (t) => {
  const shim = await started(t, 'exports.handler = (event) => eval("(" + event.body + ")")');
  for (const [code, part] of [
    ['{ statusCode: "200" }', 'statusCode is "200", not an integer'],
    ['{ statusCode: true }', 'statusCode is true'],
    ['{ statusCode: undefined }', 'statusCode is undefined'],
    ['{ statusCode: 199 }', 'statusCode is 199'],
    ['{ statusCode: 600 }', 'statusCode is 600'],
    ['{ statusCode: 200.5 }', 'statusCode is 200.5'],
    ['{ statusCode: 200, body: {} }', 'body is of type object, not a string; use JSON.stringify'],
    ['{ statusCode: 200, body: Buffer.from("x") }', "use body.toString('base64')"],
    ['{ statusCode: 200, body: "?", isBase64Encoded: true }', 'body is not base64'],
    ['{ statusCode: 200, body: "aGk", isBase64Encoded: true }', 'body is not base64'],
    ['{ statusCode: 200, isBase64Encoded: "true" }', 'isBase64Encoded is "true"'],
    ['{ statusCode: 200, headers: [] }', 'headers is an array'],
    ['{ statusCode: 200, headers: { "a b": "c" } }', '"a b" is not a valid header name'],
    ['{ statusCode: 200, headers: { "": "c" } }', 'not a valid header name'],
    ['{ statusCode: 200, headers: { a: "b\\r\\nc: d" } }', 'headers["a"] holds a line break'],
    ['{ statusCode: 200, headers: { a: "\\u20ac" } }', 'no header may hold'],
    ['{ statusCode: 200, headers: { a: ["b"] } }', 'headers["a"] is an array, not a string'],
    ['{ statusCode: 200, cookies: "a=b" }', 'cookies is "a=b", not an array'],
    ['{ statusCode: 200, cookies: ["a\\r\\n"] }', 'cookies[0] holds a line break'],
    ['{ n: 1n }', 'BigInt'],
  ]) {
    const answer = await shim.call({ trigger: 'http', body: code, headers: [['Content-Type', 'text/plain']] });
    assert.equal(answer.status, 500);
    isError(answer, 'bad_response', part);
  }
});
