// Runs the real shim in a process of its own, with a real listening socket as fd 3.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';

const COMMAND = JSON.parse(process.env.SHIM_COMMAND);
const LIMIT = 20_000; // ms that anything may take

/** A started shim over a bundle of the given files. */
export class Shim {
  static async start(t, files, { handler = 'index.handler', env = {} } = {}) {
    const shim = new Shim();
    shim.dir = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'shim-')));
    shim.task = path.join(shim.dir, 'task');
    for (const [name, content] of Object.entries(files)) {
      fs.mkdirSync(path.dirname(path.join(shim.task, name)), { recursive: true });
      fs.writeFileSync(path.join(shim.task, name), content);
    }
    shim.address = path.join(shim.dir, 's');
    const listener = net.createServer().listen(path.join(shim.dir, 'made'));
    await once(listener, 'listening');
    fs.renameSync(path.join(shim.dir, 'made'), shim.address); // closing it removes the name that it was made with
    shim.process = spawn(COMMAND[0], COMMAND.slice(1), {
      cwd: shim.task,
      stdio: ['ignore', 'pipe', 'pipe', listener._handle.fd],
      env: {
        LISTEN_FDS: '1',
        LAMBENT_HANDLER: handler,
        LAMBENT_NAMESPACE: 'default',
        LAMBENT_FUNCTION: 'f',
        LAMBENT_REVISION: 'r1',
        LAMBENT_INSTANCE: 'i1',
        LAMBENT_MEMORY: '256',
        ...env,
      },
    });
    listener.close();
    shim.exited = once(shim.process, 'exit');
    shim.stdout = text(shim.process.stdout);
    shim.stderr = text(shim.process.stderr);
    t.after(async () => {
      shim.process.kill('SIGKILL');
      await shim.exited;
      fs.rmSync(shim.dir, { recursive: true });
    });
    return shim;
  }

  /** Sends a request and gives the answer once its head is there. */
  async open({ method = 'POST', path = '/', headers = [], body, trigger = 'invoke', host = true, signal } = {}) {
    const fields = [...headers];
    if (host) {
      fields.push(['Lambent-Invocation', 'inv-1'], ['Lambent-Trigger', trigger], ['Lambent-Deadline', String(Date.now() + 30_000)]);
    }
    if (typeof body === 'string' || Buffer.isBuffer(body)) fields.push(['Content-Length', Buffer.byteLength(body)]);
    else if (body) fields.push(['Transfer-Encoding', 'chunked']);
    const req = http.request({ socketPath: this.address, method, path, setHost: false, agent: false, timeout: LIMIT, signal, headers: fields.flat() });
    req.on('timeout', () => req.destroy(new Error('no answer in time')));
    const answered = once(req, 'response');
    req.flushHeaders();
    if (body && typeof body === 'object' && !Buffer.isBuffer(body)) body.pipe(req);
    else req.end(body);
    const [res] = await answered;
    return res;
  }

  /** Gives a whole answer. */
  async call(options) {
    const res = await this.open(options);
    const chunks = [];
    for await (const chunk of res) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    return { status: res.statusCode, headers: res.headers, error: res.headers['lambent-error'], body, text: body.toString(), json: () => JSON.parse(body) };
  }

  /** Gives the answer to a direct invocation. */
  invoke(payload) {
    return this.call({ body: JSON.stringify(payload) });
  }

  /** Gives the answer to the host's first question. */
  ready() {
    return this.call({ method: 'OPTIONS', path: '*', host: false });
  }

  /** Sends bytes on a connection of their own and gives it. */
  async raw(bytes) {
    const socket = net.connect({ path: this.address, allowHalfOpen: true });
    socket.setTimeout(LIMIT, () => socket.destroy(new Error('silent for too long')));
    await once(socket, 'connect');
    socket.write(bytes);
    return socket;
  }
}

/** The host's fields, as they stand in a raw request. */
export const HOST = 'Host: f\r\nLambent-Invocation: inv-1\r\nLambent-Trigger: http\r\nLambent-Deadline: 99999999999999\r\n';

/** Starts a shim of one CommonJS file and waits until it is ready. */
export async function started(t, code, options) {
  const shim = await Shim.start(t, { 'index.js': code }, options);
  const answer = await shim.ready();
  assert.equal(answer.status, 204, answer.text);
  return shim;
}

/** Starts a shim of a fetch handler. */
export async function fetching(t, code, options) {
  const shim = await Shim.start(t, { 'index.mjs': code }, { handler: 'index.default', ...options });
  const answer = await shim.ready();
  assert.equal(answer.status, 204, answer.text);
  return shim;
}

/** Checks that the answer is that error, and that its type and message hold the parts. */
export function isError(answer, code, ...parts) {
  assert.equal(answer.error, code, `${answer.status} ${answer.text}`);
  const told = answer.json();
  assert.deepEqual(Object.keys(told), ['type', 'message', 'trace']);
  for (const part of parts) assert.ok(`${told.type}: ${told.message}`.includes(part), `${answer.text} lacks ${part}`);
  assert.ok(!/lambent_shim|node:internal/.test(told.trace.join('\n')), told.trace.join('\n'));
  return told;
}
