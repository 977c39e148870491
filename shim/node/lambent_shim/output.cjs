'use strict';

const { writeSync } = require('node:fs');
const { Writable } = require('node:stream');

const never = new Int32Array(new SharedArrayBuffer(4));

/**
 * A pipe to the host that is written to at once. Node's own stream keeps what a full pipe does not take: an answer
 * would overtake what was printed before it, and a process that is killed would take it along.
 */
class Pipe extends Writable {
  constructor(fd) {
    super({ decodeStrings: true });
    this.fd = fd;
  }

  _write(chunk, _encoding, done) {
    for (let at = 0; at < chunk.length; ) {
      try {
        at += writeSync(this.fd, chunk, at);
      } catch (error) {
        if (error.code !== 'EAGAIN') break; // its reader has gone: that must not cost an answer
        Atomics.wait(never, 0, 0, 1); // a child process has made the pipe that it shares with us non-blocking
      }
    }
    done();
  }
}

/** Puts such pipes in the place of process.stdout and process.stderr. */
exports.install = () => {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    Object.defineProperty(process, name, { value: new Pipe(fd), configurable: true, enumerable: true });
  }
};
