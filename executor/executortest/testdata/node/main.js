// The handler that executortest runs.
const fs = require('node:fs');

exports.handler = async (event) => {
  switch (event.rawPath) {
    case '/echo':
      return { statusCode: 202, headers: { method: event.requestContext.http.method }, body: event.body };
    case '/env':
      return process.env;
    case '/log':
      console.log('out', event.rawQueryString);
      console.error('err', event.rawQueryString);
      return 'logged';
    case '/raise':
      throw new RangeError('as asked');
    case '/exit':
      process.exit(3);
    case '/eat':
      return Buffer.alloc(1 << 30, 1).length;
    case '/grow':
      for (const all = []; ; ) all.push(new Array(1e5).fill(0.5)); // on V8's heap, and little work for it
    case '/status':
      return Object.fromEntries(fs.readFileSync('/proc/self/status', 'utf8').trim().split('\n').map((line) => line.split(/:\s*/)));
  }
  throw new Error(event.rawPath);
};
