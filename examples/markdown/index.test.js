import assert from 'node:assert';
import test from 'node:test';

import app, { page } from './index.js';

const post = (body) => app.fetch(new Request('http://localhost/', { method: 'POST', body }));

test('a page', async () => {
  const answer = await post('intro\n\n# A <b> & c\n\n| a | b |\n|---|---|\n| 1 | 2 |\n');
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('content-type'), 'text/html; charset=utf-8');
  assert.match(answer.headers.get('content-security-policy'), /default-src 'none'/);
  const html = await answer.text();
  assert.match(html, /<title>A &lt;b&gt; &amp; c<\/title>/);
  assert.match(html, /<td>1<\/td>/);
});

test('without a heading', () => assert.match(page(''), /<title>Untitled<\/title>/));

test('only POST', async () => {
  const answer = await app.fetch(new Request('http://localhost/'));
  assert.equal(answer.status, 405);
});
