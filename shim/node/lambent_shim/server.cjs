'use strict';

const http = require('node:http');
const event = require('./event.cjs');
const { load } = require('./load.cjs');
const { Failure, failureOf } = require('./report.cjs');

const LISTENER = 3;
const MAX_HEAD = 64 << 10;
const MAX_BODY = 64 << 20; // the host enforces the function's own limit; this one only bounds a host gone wrong
const LAST_WORDS = 1000; // ms

/** One handler on one listening socket. */
class Server {
  #start;
  #folder;
  #env;
  #http;
  #handler;
  #fetch; // fetch.cjs, when the handler has fetch
  #stream; // stream.cjs, when the function has looked for it
  #failure; // the answer to everything when the handler did not load
  #calls = new Map(); // those in flight, by connection
  #background = new Set(); // promises that outlive their call
  #stopping = false;
  #crashed = false;

  constructor(start, folder, env) {
    this.#start = start;
    this.#folder = folder;
    this.#env = env;
    // All times are the host's to watch.
    const options = { keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0, maxHeaderSize: MAX_HEAD, requireHostHeader: false };
    this.#http = http.createServer(options, (req, res) => this.#take(req, res));
    // A caller that leaves is no reason to hang up before the handler has finished: the host would take it for done.
    this.#http.httpAllowHalfOpen = true;
    this.#http.on('connection', (socket) => this.#meet(socket));
    this.#http.on('clientError', refuse);
  }

  /** Loads the handler and serves until SIGTERM. Calls in flight are finished first. */
  async run() {
    process.on('uncaughtException', (thrown) => this.#crash(thrown));
    process.on('beforeExit', () => this.#starve());
    const name = this.#env.LAMBENT_HANDLER;
    const awslambda = { configurable: true, get: () => (this.#stream ??= require('./stream.cjs')).awslambda };
    Object.defineProperty(globalThis, 'awslambda', awslambda);
    try {
      this.#handler = await load(name, this.#folder);
      if (name.endsWith('.default')) this.#fetch = require('./fetch.cjs');
    } catch (thrown) {
      return this.#fail(failureOf('start_failed', thrown));
    }
    if (process.listenerCount('SIGTERM') === 0) process.on('SIGTERM', () => this.#stop());
    this.#listen();
  }

  #listen() {
    if (!this.#http.listening) this.#http.listen({ fd: LISTENER });
  }

  // The handler cannot be loaded: that is the answer to the host's first request, and the end.
  #fail(failure) {
    this.#failure ??= failure;
    this.#failure.log();
    this.#listen();
  }

  #meet(socket) {
    // With the listener let go of, only what the handler has begun keeps the event loop alive; see #starve.
    if (!this.#fetch) socket.unref();
    socket.on('end', () => this.#calls.get(socket)?.leave());
  }

  async #take(req, res) {
    const socket = req.socket;
    const call = new Call(req, res);
    this.#calls.set(socket, call);
    res.on('close', () => {
      this.#calls.delete(socket);
      this.#leave();
    });
    if (this.#stopping) res.shouldKeepAlive = false;
    if (this.#failure) {
      res.on('close', () => process.exit(1));
      return call.refuse(this.#failure);
    }
    if (req.method === 'OPTIONS' && req.url === '*') return call.answer(204, ['Lambent-Start', String(this.#start)]);
    try {
      call.read();
      await (this.#fetch ? this.#callFetch(call) : this.#callHandler(call));
    } catch (thrown) {
      if (req.destroyed && !req.complete) return; // the host has gone in the middle of its request
      const failure = failureOf('handler_error', thrown);
      if (failure.status === 500 && !(call.left && failure.type === 'AbortError')) failure.log();
      call.refuse(failure);
    }
  }

  async #callHandler(call) {
    const body = await call.body();
    const http = call.trigger === 'http';
    const given = http ? event.ofHTTP(call.req, body, this.#env, call.invocation) : event.ofPayload(body);
    let result;
    this.#http.unref();
    try {
      const context = this.#context(call);
      if (this.#stream?.streams(this.#handler)) return await Promise.race([this.#pour(call, given, context), call.broken]);
      result = await Promise.race([settle(this.#handler, given, context), call.broken]);
    } finally {
      this.#http.ref();
    }
    call.answer(...(http ? event.toHTTP(result) : event.toPayload(result)));
  }

  async #pour(call, given, context) {
    const stream = new this.#stream.ResponseStream(call);
    const done = new Promise((resolve) => stream.on('close', resolve));
    await this.#handler(given, stream, context);
    await done;
  }

  // What AWS Lambda's context object has.
  #context({ invocation, deadline }) {
    const env = this.#env;
    return {
      awsRequestId: invocation,
      callbackWaitsForEmptyEventLoop: false,
      functionName: env.LAMBENT_FUNCTION,
      functionVersion: env.LAMBENT_REVISION,
      invokedFunctionArn: `arn:lambent:lambda:local:${env.LAMBENT_NAMESPACE}:function:${env.LAMBENT_FUNCTION}`,
      memoryLimitInMB: env.LAMBENT_MEMORY, // a string, as there
      logGroupName: `/lambent/${env.LAMBENT_NAMESPACE}/${env.LAMBENT_FUNCTION}`,
      logStreamName: env.LAMBENT_INSTANCE,
      getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
    };
  }

  async #callFetch(call) {
    const request = this.#fetch.toRequest(call.req, call.signal);
    const context = { invocation: call.invocation, waitUntil: (promise) => this.#keep(promise) };
    const response = await Promise.race([this.#handler.fetch(request, process.env, context), call.broken]);
    if (call.left) {
      await response?.body?.cancel();
      call.res.destroy();
      return;
    }
    await this.#fetch.send(response, call.req, call.res);
  }

  #keep(promise) {
    const kept = Promise.resolve(promise).catch((thrown) => failureOf('handler_error', thrown).log());
    this.#background.add(kept);
    kept.finally(() => this.#background.delete(kept));
  }

  // Nothing is left that could make anything happen, so nobody will settle what is waited for.
  #starve() {
    if (!this.#handler && !this.#failure) {
      this.#fail(new Failure('start_failed', 'NeverSettled', 'the module awaits at its top level what can never happen'));
    }
    const failure = new Failure('handler_error', 'NeverSettled',
      'the handler never settled: nothing is left in its event loop that could resolve its promise or call its callback');
    for (const call of this.#calls.values()) setImmediate(call.fail, failure); // which keeps the loop alive
  }

  // After an exception that nobody caught the function's state is anybody's guess: all in flight fail, and it ends.
  #crash(thrown) {
    if (process.listenerCount('uncaughtException') > 1) return; // the function sees to it
    if (!this.#handler) return this.#fail(failureOf('start_failed', thrown));
    const failure = failureOf('handler_error', thrown);
    failure.log();
    if (this.#crashed) return;
    this.#crashed = true;
    this.#close(); // first: who comes now is sent elsewhere
    const answers = [...this.#calls.values()].map((call) => {
      call.res.shouldKeepAlive = false;
      call.refuse(failure);
      return call.closed;
    });
    setTimeout(() => process.exit(1), LAST_WORDS);
    Promise.all(answers).then(() => process.exit(1));
  }

  #stop() {
    this.#stopping = true;
    this.#close();
    for (const { res } of this.#calls.values()) res.shouldKeepAlive = false;
    this.#leave();
  }

  #close() {
    this.#http.close();
    this.#http.closeIdleConnections();
  }

  async #leave() {
    if (!this.#stopping || this.#calls.size > 0) return;
    await Promise.all(this.#background);
    process.exit(0);
  }
}

/** One request and its answer. */
class Call {
  #controller;
  left = false; // its caller does not wait any more

  constructor(req, res) {
    this.req = req;
    this.res = res;
    this.closed = new Promise((resolve) => res.on('close', resolve));
    this.broken = new Promise((_resolve, reject) => (this.fail = reject));
    this.broken.catch(() => {}); // also when nobody races it
    res.sendDate = false;
  }

  /** Reads what the host says of the request. */
  read() {
    const { 'lambent-invocation': invocation, 'lambent-trigger': trigger, 'lambent-deadline': deadline } = this.req.headers;
    if (!invocation || !/^[0-9]+$/.test(deadline) || !['http', 'invoke'].includes(trigger)) {
      throw new Failure('invalid_request', 'HTTP', 'a header of the host is missing or wrong');
    }
    Object.assign(this, { invocation, trigger, deadline: Number(deadline) });
  }

  /** Gives the whole body of the request. */
  async body() {
    const chunks = [];
    let size = 0;
    for await (const chunk of this.req) {
      size += chunk.length;
      if (size > MAX_BODY) throw new Failure('body_too_large', 'HTTP', `the body is longer than ${MAX_BODY} bytes`);
      chunks.push(chunk);
    }
    return chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
  }

  /** Gives the AbortSignal that tells when the caller leaves. */
  get signal() {
    this.#controller ??= new AbortController();
    return this.#controller.signal;
  }

  /** Takes note that the caller has left. What streams is cut, what works may notice by the signal. */
  leave() {
    this.left = true;
    this.#controller?.abort();
    if (this.#controller && this.res.headersSent) this.res.destroy();
  }

  /** Answers, unless there was an answer. Fields are names and values in turn. */
  answer(status, fields, body) {
    if (this.res.headersSent || this.res.destroyed) return;
    const hasLength = body && status !== 204 && status !== 304;
    this.res.writeHead(status, hasLength ? [...fields, 'Content-Length', body.length] : fields);
    this.res.end(hasLength ? body : undefined);
  }

  /** Answers with a failure, or breaks the answer off. */
  refuse(failure) {
    if (this.res.headersSent) {
      this.res.destroy();
      return;
    }
    this.answer(failure.status, ['Content-Type', 'application/json', 'Lambent-Error', failure.code], failure.body);
  }
}

// Gives what a handler says by its result, its promise or its callback. One that declares a callback means it.
function settle(handler, given, context) {
  return new Promise((resolve, reject) => {
    const result = handler(given, context, (error, value) => (error ? reject(error) : resolve(value)));
    if (typeof result?.then === 'function') result.then(resolve, reject);
    else if (handler.length < 3) resolve(result);
  });
}

// Answers what is not HTTP/1.1.
function refuse(error, socket) {
  if (!socket.writable || error.code === 'ECONNRESET') return socket.destroy();
  const { body } = new Failure('invalid_request', 'HTTP', `the request cannot be read: ${error.message}`);
  socket.end(`HTTP/1.1 400 \r\nLambent-Error: invalid_request\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
}

module.exports = { Server };
