import assert from 'node:assert';
import { readFileSync } from 'node:fs';
import test from 'node:test';

const source = readFileSync(new URL('public/app.js', import.meta.url), 'utf8');
const { page, title } = await import(`data:text/javascript,${encodeURIComponent(source)}`); // .js is no module to Node.js

test('pages', () => {
  assert.deepEqual(page('/'), { name: 'list' });
  assert.deepEqual(page('/notes/12'), { name: 'note', id: '12' });
  assert.deepEqual(page('/notes/12/'), { name: 'note', id: '12' });
  assert.deepEqual(page('/notes/x'), { name: 'missing', path: '/notes/x' });
  assert.deepEqual(page('/elsewhere'), { name: 'missing', path: '/elsewhere' });
});

test('titles', () => {
  assert.equal(title('\n Buy milk \nand bread'), 'Buy milk ');
  assert.equal(title(''), 'Empty note');
  assert.equal(title('x'.repeat(100)).length, 60);
});
