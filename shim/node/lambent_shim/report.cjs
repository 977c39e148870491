'use strict';

const { inspect } = require('node:util');

const MAX_MESSAGE = 8 << 10;
const MAX_LINES = 100;
const MAX_LINE = 1 << 10;
const STATUS = { invalid_request: 400, invalid_json: 400, body_too_large: 413 };

/** A failure as the host gets it: a code of Lambent-Error and the report {type, message, trace}. */
class Failure extends Error {
  constructor(code, type, message, trace = []) {
    super(message);
    Object.assign(this, { code, type, trace });
  }

  get status() {
    return STATUS[this.code] ?? 500;
  }

  get body() {
    return Buffer.from(JSON.stringify({ type: this.type, message: this.message, trace: this.trace }));
  }

  /** Writes a failure of the function's to its log. */
  log() {
    process.stderr.write((this.trace.length > 0 ? this.trace.join('\n') : `${this.type}: ${this.message}`) + '\n');
  }
}

/** Gives the failure that something thrown means; our own frames, and Node's, are left out of its trace. */
function failureOf(code, thrown) {
  if (is(thrown, Failure)) return thrown;
  return new Failure(code, typeOf(thrown), messageOf(thrown), traceOf(thrown));
}

// What is thrown is the function's, and so is everything that a look at it may call.
function attempt(look, otherwise) {
  try {
    return look();
  } catch {
    return otherwise;
  }
}

function is(thrown, kind) {
  return attempt(() => thrown instanceof kind, false);
}

function typeOf(thrown) {
  if (!is(thrown, Error)) return typeof thrown;
  return attempt(() => String(thrown.name === 'Error' ? thrown.constructor.name : thrown.name), 'Error');
}

function messageOf(thrown) {
  const text = attempt(() => String(is(thrown, Error) ? thrown.message : thrown), '<the error cannot be read>');
  return text.slice(0, MAX_MESSAGE);
}

function traceOf(thrown) {
  const text = attempt(() => inspect(thrown, { depth: 3 }), '');
  const lines = text.split('\n').filter((line) => !isOurs(line));
  return lines.slice(0, MAX_LINES).map((line) => line.slice(0, MAX_LINE));
}

function isOurs(line) {
  return /^ +at .*\bnode:/.test(line) || line.includes(__dirname);
}

module.exports = { Failure, failureOf };
