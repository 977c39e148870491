// A server as one writes it for any other place.
const http = require('node:http');

console.log('starting', process.argv[2]);
http.createServer((req, res) => {
  res.setHeader('Path', req.url);
  req.pipe(res);
}).listen(process.env.PORT);
