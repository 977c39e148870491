import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Shim, isError, started } from './harness.mjs';

test('ready carries the time of the first line', async (t) => {
  const before = process.hrtime.bigint();
  const shim = await Shim.start(t, { 'index.js': 'exports.handler = () => 1' });
  const answer = await shim.ready();
  const at = BigInt(answer.headers['lambent-start']);
  assert.ok(answer.status === 204 && before < at && at < process.hrtime.bigint());
});

test('every kind of module is loaded', async (t) => {
  const cjs = 'exports.handler = async () => require("./part.cjs").x';
  const esm = 'import { x } from "./part.cjs"; export const handler = async () => x';
  for (const [name, files] of Object.entries({
    'index.js': { 'index.js': cjs },
    'index.cjs': { 'index.cjs': cjs },
    'index.mjs': { 'index.mjs': esm },
    'index.js of a package of modules': { 'index.js': esm, 'package.json': '{"type": "module"}' },
    'index.js of a package of CommonJS': { 'index.js': cjs, 'package.json': '{"name": "x"}' },
    'top-level await': { 'index.mjs': esm + '\nawait new Promise((go) => setTimeout(go, 1))' },
  })) {
    const shim = await Shim.start(t, { ...files, 'part.cjs': 'exports.x = 7' });
    assert.equal((await shim.ready()).status, 204, name);
    assert.equal((await shim.invoke()).text, '7', name);
    shim.process.kill('SIGKILL');
    assert.equal(await shim.stderr, '', name);
  }
});

test('a handler in a folder, by the package.json that is nearest', async (t) => {
  const files = { 'package.json': '{}', 'src/package.json': '{"type": "module"}', 'src/web-app.js': 'export function go() { return 7 }' };
  const shim = await Shim.start(t, files, { handler: 'src/web-app.go' });
  assert.equal((await shim.ready()).status, 204);
  assert.equal((await shim.invoke()).text, '7');
});

test('packages come from node_modules of the bundle', async (t) => {
  const files = { 'index.mjs': 'import x from "seven"; export const handler = () => x', 'node_modules/seven/package.json': '{"main": "a.js"}', 'node_modules/seven/a.js': 'module.exports = 7' };
  const shim = await Shim.start(t, files);
  assert.equal((await shim.ready()).status, 204);
  assert.equal((await shim.invoke()).text, '7');
});

const failures = {
  'module missing': [{ 'app.js': '' }, 'the bundle has no index.js, index.mjs, index.cjs; it holds: app.js'],
  'export missing': [{ 'index.mjs': 'export const a = 1; export default {}' }, 'index.mjs exports no handler; it exports: a, default'],
  'export missing in CommonJS': [{ 'index.js': 'exports.b = exports.a = () => 1' }, 'index.js exports no handler; it exports: a, b'],
  'nothing exported': [{ 'index.js': 'module.exports = null' }, 'it exports: nothing'],
  'a fetch handler under another name': [{ 'index.mjs': 'export default { fetch() {} }' }, 'named index.default'],
  'no function': [{ 'index.js': 'exports.handler = {}' }, 'handler in index.js is of type object, not a function'],
  throws: [{ 'index.js': 'function f() { throw new RangeError("no luck") }\nf()' }, 'RangeError: no luck'],
  'throws, module': [{ 'index.mjs': 'await null; throw new RangeError("no luck")' }, 'RangeError: no luck'],
  'throws nothing': [{ 'index.js': 'throw undefined' }, 'undefined: undefined'],
  'throws later': [{ 'index.mjs': 'setTimeout(() => { throw new Error("late") }, 1); await new Promise((go) => setTimeout(go, 60000))' }, 'Error: late'],
  syntax: [{ 'index.js': 'exports.handler = (' }, 'SyntaxError'],
  'package missing': [{ 'index.js': 'require("express")' }, "Cannot find module 'express'", 'npm install'],
  'package missing, module': [{ 'index.mjs': 'import "express"' }, "Cannot find package 'express'", 'npm install'],
  'never loaded': [{ 'index.mjs': 'await new Promise(() => {})' }, 'awaits at its top level'],
  'package.json broken': [{ 'index.js': '', 'package.json': '{' }, 'package.json'],
  'timer that stays': [{ 'index.js': 'setInterval(() => {}, 1000)' }, 'exports no handler'],
};
for (const [name, [files, ...parts]] of Object.entries(failures)) {
  test(`failure: ${name}`, async (t) => {
    const shim = await Shim.start(t, files);
    const answer = await shim.ready();
    assert.equal(answer.status, 500);
    const told = isError(answer, 'start_failed', ...parts);
    assert.deepEqual(await shim.exited, [1, null]);
    assert.ok((await shim.stderr).includes(told.trace.at(-1) ?? told.message));
  });
}

test('a syntax error in a module says where it is', async (t) => {
  const shim = await Shim.start(t, { 'index.mjs': 'import "./part.mjs"; console.log("ran")', 'part.mjs': '\nlet x = ;' });
  const trace = isError(await shim.ready(), 'start_failed', 'SyntaxError').trace.join('\n');
  assert.match(trace, /part\.mjs:2\nlet x = ;/);
  assert.equal(await shim.stdout, '');
});

test('the trace is of the function only', async (t) => {
  const shim = await Shim.start(t, { 'index.js': 'require("./b.js")', 'b.js': 'function f() {\n throw new Error("no", { cause: new TypeError("why") }) }\nf()' });
  const trace = isError(await shim.ready(), 'start_failed').trace.join('\n');
  for (const part of ['b.js:2', 'b.js:3', 'index.js:1', 'TypeError: why']) assert.ok(trace.includes(part), trace);
});

test('an exit just ends the process', async (t) => {
  const shim = await Shim.start(t, { 'index.js': 'console.log("bye"); process.exit(7)' });
  assert.deepEqual(await shim.exited, [7, null]);
  assert.equal(await shim.stdout, 'bye\n');
});

test('module and name may be anything that the settings let through', async (t) => {
  const shim = await Shim.start(t, { 'a-b/c_d.cjs': 'exports.$x = () => 7' }, { handler: 'a-b/c_d.$x' });
  assert.equal((await shim.ready()).status, 204);
  assert.equal((await shim.invoke()).text, '7');
});

test('what is printed while loading is there', async (t) => {
  const shim = await started(t, 'console.log("out"); console.error("err"); exports.handler = () => 1');
  shim.process.kill('SIGKILL');
  assert.deepEqual([await shim.stdout, await shim.stderr], ['out\n', 'err\n']);
});
