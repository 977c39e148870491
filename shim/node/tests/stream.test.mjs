import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { isError, started } from './harness.mjs';

const streaming = (code) => `exports.handler = awslambda.streamifyResponse(async (event, stream, context) => { ${code} })`;

test('a stream comes as it is written', async (t) => {
  const shim = await started(t, streaming(`
    stream.setContentType('text/event-stream');
    stream.write('one');
    await new Promise((resolve) => process.once('SIGUSR2', resolve) && setInterval(() => {}, 1000).unref());
    stream.write(Buffer.from(' two'));
    stream.end(' three');
  `).replace('.unref()', ''), {});
  const res = await shim.open({ trigger: 'http' });
  assert.deepEqual([res.statusCode, res.headers['content-type']], [200, 'text/event-stream']);
  assert.equal(String((await once(res, 'data'))[0]), 'one');
  shim.process.kill('SIGUSR2');
  assert.equal((await res.toArray()).join(''), ' two three');
});

test('the head of an answer', async (t) => {
  const shim = await started(t, streaming(`
    const metadata = { statusCode: 201, headers: { 'x-a': 1, 'content-type': 'text/plain' }, cookies: ['a=b', 'c=d'] };
    const http = awslambda.HttpResponseStream.from(stream, metadata);
    http.write('body of ' + context.awsRequestId);
    http.end();
  `));
  const answer = await shim.call({ trigger: 'http' });
  assert.deepEqual([answer.status, answer.headers['x-a'], answer.headers['content-type'], answer.text], [201, '1', 'text/plain', 'body of inv-1']);
  assert.deepEqual(answer.headers['set-cookie'], ['a=b', 'c=d']);
  const direct = await shim.call();
  assert.equal(direct.headers['content-type'], 'application/vnd.awslambda.http-integration-response');
  const [prelude, body] = direct.text.split('\0'.repeat(8));
  assert.deepEqual([JSON.parse(prelude).statusCode, body], [201, 'body of inv-1']);
});

test('an empty stream', async (t) => {
  const answer = await (await started(t, streaming('stream.end()'))).call({ trigger: 'http' });
  assert.deepEqual([answer.status, answer.text, answer.headers['content-type']], [200, '', 'application/octet-stream']);
});

test('a large stream to a slow reader, by pipeline', async (t) => {
  const shim = await started(t, `
    const { pipeline } = require('node:stream/promises');
    const { Readable } = require('node:stream');
    function* blocks() { for (let i = 0; i < 256; i++) yield Buffer.alloc(65536, i); }
    exports.handler = awslambda.streamifyResponse((event, stream) => pipeline(Readable.from(blocks()), stream));`);
  const res = await shim.open({ trigger: 'http' });
  await new Promise((resolve) => setTimeout(resolve, 200)); // all buffers are full by now
  let size = 0;
  for await (const chunk of res) size += chunk.length;
  assert.equal(size, 256 * 65536);
});

test('failures', async (t) => {
  const early = await (await started(t, streaming('throw new RangeError("no luck")'))).call({ trigger: 'http' });
  isError(early, 'handler_error', 'RangeError', 'no luck');
  const wrong = await (await started(t, streaming('awslambda.HttpResponseStream.from(stream, { statusCode: 99 })'))).call({ trigger: 'http' });
  isError(wrong, 'bad_response', 'statusCode is 99');
  const never = await (await started(t, streaming(''))).call({ trigger: 'http' });
  isError(never, 'handler_error', 'NeverSettled');
  const shim = await started(t, streaming('stream.write("begun"); await new Promise((resolve) => setTimeout(resolve, 50)); throw new Error("late")'));
  await assert.rejects(shim.call({ trigger: 'http' }), /aborted/, 'an answer that broke off is not whole');
  await assert.rejects(shim.call({ trigger: 'http' }), /aborted/, 'the next call is served');
});

test('a stream that is not ended', async (t) => {
  for (const code of ['stream.destroy()', 'stream.destroy(new Error("mine"))']) {
    isError(await (await started(t, streaming(code))).call({ trigger: 'http' }), 'bad_response', 'destroyed');
  }
  for (const code of [
    'stream.write("x")',
    'stream.write("x"); await new Promise((go) => setTimeout(go, 20)); stream.destroy()',
    `const { Readable } = require('node:stream');
     const failing = new Readable({ read() { setTimeout(() => this.destroy(new Error('source'))) } });
     stream.write('x');
     await require('node:stream/promises').pipeline(failing, stream).catch(() => {});`,
  ]) {
    const shim = await started(t, streaming(code));
    await assert.rejects(shim.call({ trigger: 'http' }), /aborted|hang up/, code);
    await assert.rejects(shim.call({ trigger: 'http' }), /aborted|hang up/, 'the next call is served');
  }
});

test('a caller that leaves ends the stream', async (t) => {
  const shim = await started(t, `
    let told;
    exports.handler = awslambda.streamifyResponse(async (event, stream) => {
      if (event.requestContext.http.path === '/told') return stream.end(told);
      const tick = setInterval(() => stream.write('x'), 5);
      await new Promise((resolve) => stream.on('close', resolve));
      clearInterval(tick);
      told = 'closed';
    });`);
  const res = await shim.open({ trigger: 'http' });
  await once(res, 'data');
  res.destroy();
  for (let i = 0; ; i++) {
    const { text } = await shim.call({ trigger: 'http', path: '/told' });
    if (text === 'closed') break;
    assert.ok(i < 200, 'the stream was not closed');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
});
