// The function of the chaos tests that is a fetch handler. It journals the id of each request when the server has read it,
// and again when its work is done; see functions/server.
import { execFileSync } from 'node:child_process';
import { openSync, writeSync } from 'node:fs';
import http from 'node:http';

const JOURNAL = '/tmp/journal';
const instance = process.env.LAMBENT_INSTANCE;

// To open it waits for the harness.
execFileSync('mkfifo', ['-m', '600', JOURNAL]);
const journal = openSync(JOURNAL, 'w');
const note = (what, id) => writeSync(journal, `${what} ${id}\n`);
note('hello', `${instance} ${process.env.LAMBENT_FUNCTION}`);

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, ...args) {
  const id = event === 'request' && /[?&]id=([a-z0-9-]+)/.exec(args[0].url);
  if (id) note('read', id[1]);
  return emit.call(this, event, ...args);
};

export default {
  async fetch(request) {
    const id = new URL(request.url).searchParams.get('id');
    await request.text();
    note('done', id);
    return new Response(`done ${id} ${instance}\n`);
  },
};
