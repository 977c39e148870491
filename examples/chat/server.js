// A chat room over WebSockets: an ordinary Node.js server that listens on $PORT.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const page = readFileSync(new URL('public/index.html', import.meta.url));
const server = createServer((request, response) => {
  if (request.url !== '/') return response.writeHead(404).end();
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(page);
});
const room = new WebSocketServer({ server, maxPayload: 4096 });

const tell = (message) => {
  for (const client of room.clients) client.send(JSON.stringify(message));
};

room.on('connection', (socket, request) => {
  const name = new URL(request.url, 'http://chat').searchParams.get('name') || 'somebody';
  tell({ joined: name, here: room.clients.size });
  console.log(`${name} joined, ${room.clients.size} here`);
  socket.on('message', (data) => tell({ from: name, text: data.toString() }));
  socket.on('error', (error) => console.log(`${name}: ${error.message}`));
  socket.on('close', () => {
    tell({ left: name, here: room.clients.size });
    console.log(`${name} left, ${room.clients.size} here`);
  });
});

process.on('SIGTERM', () => {
  for (const client of room.clients) client.close(1012, 'the room moves: come back');
  server.close(() => process.exit());
});
server.listen(process.env.PORT, '127.0.0.1');
