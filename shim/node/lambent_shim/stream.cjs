'use strict';

/*
 * Streamed answers of event handlers, as the global awslambda of AWS Lambda's Node.js runtimes has them. It is loaded
 * when the function first looks at that global.
 */

const { Writable } = require('node:stream');
const { headOf } = require('./event.cjs');
const { Failure } = require('./report.cjs');

const STREAMS = Symbol('streams');

/** Tells whether a handler writes its answer to a stream: handler(event, stream, context). */
function streams(handler) {
  return handler[STREAMS] === true;
}

/** The answer of a call as a stream. Its head goes out with the first byte, or at the end. */
class ResponseStream extends Writable {
  #call;
  #head = [200, ['Content-Type', 'application/octet-stream']];

  constructor(call) {
    super();
    this.#call = call;
    call.res.on('close', () => this.destroy(call.res.writableFinished ? undefined : new Error('the caller has left')));
    this.on('error', () => {}); // the function need not know that its caller has left
  }

  setContentType(type) {
    this.#head = headOf({ statusCode: 200, headers: { 'Content-Type': type } });
  }

  /** Takes in status, headers and cookies. Who calls without HTTP gets them in front of the body, as on AWS. */
  begin(metadata) {
    const head = headOf({ statusCode: 200, ...metadata });
    if (this.#call.trigger === 'http') {
      this.#head = head;
    } else {
      this.setContentType('application/vnd.awslambda.http-integration-response');
      this.write(JSON.stringify(metadata));
      this.write(Buffer.alloc(8));
    }
    return this;
  }

  #begin() {
    const { res } = this.#call;
    if (!res.headersSent) res.writeHead(...this.#head);
  }

  // A caller who reads slowly is something to wait for, a handler that never goes on is not; see Server.#starve.
  #slowly(wait, done) {
    const { socket } = this.#call.req;
    socket.ref();
    wait((...args) => {
      socket.unref();
      done(...args);
    });
  }

  _write(chunk, _encoding, done) {
    const { res } = this.#call;
    this.#begin();
    if (res.write(chunk)) done();
    else this.#slowly((go) => res.once('drain', go), done);
  }

  _final(done) {
    this.#begin();
    this.#slowly((go) => this.#call.res.end(go), done);
  }

  _destroy(error, done) {
    const { res } = this.#call;
    if (!res.writableEnded && !res.destroyed) {
      const why = error?.message ?? 'no reason was given';
      if (res.headersSent) res.destroy();
      else this.#call.fail(new Failure('bad_response', 'BadResponse', `the stream was destroyed before it began: ${why}`));
    }
    done(error);
  }
}

const awslambda = {
  streamifyResponse(handler) {
    const streaming = (...args) => handler(...args);
    return Object.assign(streaming, { [STREAMS]: true });
  },
  HttpResponseStream: {
    from: (stream, metadata) => stream.begin(metadata),
  },
};

module.exports = { awslambda, streams, ResponseStream };
