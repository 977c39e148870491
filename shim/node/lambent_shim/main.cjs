'use strict';

/*
 * The bootstrap that loads a JavaScript handler and serves it inside a sandbox.
 *
 * fd 3 is a listening unix socket made by the host. The handler is loaded before the first accept, so the answer to
 * the host's first request, OPTIONS *, is the readiness. Then requests come with a few Lambent-* headers: one at a
 * time for a handler of events, as many as the host gives for a fetch handler.
 *
 * Every module that is loaded costs a cold start: fetch.cjs, and with it Request and Response, is loaded only for
 * handlers that have fetch. It runs on Node.js 18 and later.
 */
const START = process.hrtime.bigint(); // CLOCK_MONOTONIC

require('./output.cjs').install();
const { Server } = require('./server.cjs');

new Server(START, process.cwd(), { ...process.env }).run();
