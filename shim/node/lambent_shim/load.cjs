'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { Failure, failureOf } = require('./report.cjs');

const EXTENSIONS = ['.js', '.mjs', '.cjs'];

/** Gives what the name "path/module.export" stands for in the folder; the failure says what is there instead. */
async function load(name, folder) {
  const dot = name.lastIndexOf('.');
  const key = name.slice(dot + 1);
  const stem = name.slice(0, dot);
  const file = find(folder, stem);
  const where = path.relative(folder, file);
  const exports = await importFile(file, folder).catch((thrown) => {
    throw explain(thrown, file);
  });
  const handler = member(exports, key);
  if (handler === undefined) {
    const hint = typeof member(exports, 'default')?.fetch === 'function' ? `; its fetch handler is named ${stem}.default` : '';
    throw missing(`${where} exports no ${key}; it exports: ${names(exports)}${hint}`);
  }
  if (key === 'default' && typeof handler?.fetch !== 'function') {
    throw missing(`the default export of ${where} has no function fetch(request, env, ctx); ` +
      'a handler of events is exported by a name of its own');
  }
  if (key !== 'default' && typeof handler !== 'function') {
    throw missing(`${key} in ${where} is of type ${typeof handler}, not a function`);
  }
  return handler;
}

function missing(message) {
  return new Failure('start_failed', 'HandlerNotFound', message);
}

function find(folder, stem) {
  const files = EXTENSIONS.map((extension) => stem + extension);
  const found = files.find((file) => fs.existsSync(path.join(folder, file)));
  if (found) return path.join(folder, found);
  const there = fs.readdirSync(folder).sort().slice(0, 20).join(', ') || 'nothing';
  throw missing(`the bundle has no ${files.join(', ')}; it holds: ${there}`);
}

// A CommonJS file is spared the loader of ES modules, which costs every cold start.
async function importFile(file, folder) {
  if (!isModule(file, folder)) {
    try {
      return require(file);
    } catch (thrown) {
      if (thrown?.code !== 'ERR_REQUIRE_ESM' && thrown?.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw thrown;
    }
  }
  return import(pathToFileURL(file));
}

// The rule of Node.js: the extension, else the nearest package.json.
function isModule(file, folder) {
  if (!file.endsWith('.js')) return file.endsWith('.mjs');
  for (let dir = path.dirname(file); dir.startsWith(folder); dir = path.dirname(dir)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(dir, 'package.json'), 'utf8')).type === 'module';
    } catch (error) {
      if (error.code !== 'ENOENT') return false; // require says what is wrong with it
    }
  }
  return false;
}

// What a CommonJS file exports is its default, unless it says otherwise.
function member(exports, key) {
  const whole = key === 'default' && exports?.[Symbol.toStringTag] !== 'Module' ? exports : undefined;
  return exports?.[key] ?? whole;
}

function names(exports) {
  return Object.keys(Object(exports)).slice(0, 20).join(', ') || 'nothing';
}

function explain(thrown, file) {
  const failure = failureOf('start_failed', thrown);
  if (/^Cannot find (?:module|package) /.test(failure.message)) {
    const [first] = failure.message.split('\n');
    const hint = /'\.{0,2}\//.test(first) ? '' : ' (the bundle has no such package; to add it: npm install NAME)';
    failure.message = first + hint;
  }
  // Of a syntax error in an ES module only Node's own printer says where it is. Nothing of the module runs.
  if (failure.type === 'SyntaxError' && failure.trace.length === 1) {
    const { spawnSync } = require('node:child_process');
    const { stderr } = spawnSync(process.execPath, [file], { encoding: 'utf8', timeout: 5000, stdio: ['ignore', 'ignore', 'pipe'] });
    const told = stderr?.split(/\n {4}at |\n\nNode/)[0].trim();
    if (told?.includes(failure.trace[0])) failure.trace = told.split('\n').slice(0, 20);
  }
  return failure;
}

module.exports = { load };
