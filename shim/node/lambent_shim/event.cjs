'use strict';

/*
 * What a handler of events is given and what its result means.
 *
 * The event of an HTTP request is the payload 2.0 of API Gateway HTTP APIs: rawPath is percent-decoded, as theirs.
 * The answer's default content type is application/json, as with Lambda function URLs.
 */

const { isUtf8 } = require('node:buffer');
const { validateHeaderName } = require('node:http');
const { unescapeBuffer } = require('node:querystring');
const { isHopByHop, isOurs } = require('./fields.cjs');
const { Failure } = require('./report.cjs');

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const TEXT = /^$|^text\/|(?:\/json|\+json|\/xml|\+xml|\/javascript|\/x-www-form-urlencoded|\/x-ndjson|\/graphql|\/yaml)$/;
const JSON_TYPE = ['Content-Type', 'application/json'];

/** Gives the event of a direct invocation: the body's JSON, or {} when it is empty, as Lambda does. */
function ofPayload(body) {
  if (body.length === 0) return {};
  if (!isUtf8(body)) throw new Failure('invalid_json', 'BadPayload', 'the body is not UTF-8');
  const text = body.toString();
  try {
    return JSON.parse(text);
  } catch (error) {
    const end = lengthOfJSON(text);
    const line = text.slice(0, end).split('\n');
    const where = `line ${line.length} column ${line.at(-1).length + 1}`;
    throw new Failure('invalid_json', 'BadPayload', `the body is not JSON: ${error.message} (${where})`);
  }
}

const STRING = '"(?:[^"\\\\\\u0000-\\u001f]|\\\\(?:["\\\\/bfnrt]|u[0-9a-fA-F]{4}))*"';
const SCALAR = `${STRING}|-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null`;
const TOKEN = new RegExp(`[ \\t\\n\\r]*(?:(?<scalar>${SCALAR})|(?<mark>[[\\]{},:]))`, 'y');

// Gives how far text, which is not JSON, could be the beginning of JSON; V8 tells in some of its messages only.
function lengthOfJSON(text) {
  const open = [];
  let wanted = 'value'; // or key, first (element or end), firstKey, colon, more
  for (TOKEN.lastIndex = 0; ; ) {
    const at = TOKEN.lastIndex;
    const token = TOKEN.exec(text)?.groups;
    const begin = at + /^[ \t\n\r]*/.exec(text.slice(at, at + 4096))[0].length;
    if (!token) return begin;
    const wantsValue = wanted === 'value' || wanted === 'first';
    const wantsKey = wanted === 'key' || wanted === 'firstKey';
    const { scalar, mark } = token;
    if (scalar !== undefined && wantsValue) wanted = 'more';
    else if (scalar?.startsWith('"') && wantsKey) wanted = 'colon';
    else if (mark === ':' && wanted === 'colon') wanted = 'value';
    else if (mark === '[' && wantsValue) wanted = open.push(']') && 'first';
    else if (mark === '{' && wantsValue) wanted = open.push('}') && 'firstKey';
    else if (mark === ',' && wanted === 'more' && open.length > 0) wanted = open.at(-1) === ']' ? 'value' : 'key';
    else if (mark === open.at(-1) && ['more', 'first', 'firstKey'].includes(wanted)) wanted = open.pop() && 'more';
    else return begin;
  }
}

/** Gives status, fields and body of the answer to a direct invocation. */
function toPayload(result) {
  return [200, JSON_TYPE, encode(result)];
}

/** Gives the event of an HTTP request. */
function ofHTTP(req, body, env, invocation) {
  const headers = Object.create(null);
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    const name = req.rawHeaders[i].toLowerCase();
    const value = req.rawHeaders[i + 1];
    if (isOurs(name)) continue;
    headers[name] = name in headers ? headers[name] + (name === 'cookie' ? ';' : ',') + value : value;
  }
  const cookies = (headers.cookie ?? '').split(';').map((cookie) => cookie.trim()).filter(Boolean);
  delete headers.cookie;
  const [rawPath, query] = cut(req.url, '?');
  const path = unescapeBuffer(rawPath).toString();
  const domainName = (headers.host ?? '').replace(/(?<!:):[0-9]*$/, '');
  const { 'lambent-route': route = '$default', 'lambent-path-parameters': pathParameters } = req.headers;
  const routeKey = unescapeBuffer(route).toString();
  const now = new Date();
  const isText = isTextual(headers, body);
  return {
    version: '2.0',
    routeKey,
    rawPath: path,
    rawQueryString: query,
    cookies,
    headers: { ...headers },
    queryStringParameters: parameters(query),
    requestContext: {
      accountId: env.LAMBENT_NAMESPACE,
      apiId: env.LAMBENT_FUNCTION,
      authentication: null,
      authorizer: null,
      domainName,
      domainPrefix: cut(domainName, '.')[0],
      http: {
        method: req.method,
        path,
        protocol: 'HTTP/1.1',
        sourceIp: (headers['x-forwarded-for'] ?? '').split(',').at(-1).trim(),
        userAgent: headers['user-agent'] ?? '',
      },
      requestId: invocation,
      routeKey,
      stage: '$default',
      time: time(now),
      timeEpoch: now.getTime(),
    },
    body: body.length === 0 ? null : body.toString(isText ? 'utf8' : 'base64'),
    pathParameters: pathParameters ? parameters(pathParameters) : null,
    isBase64Encoded: !isText,
    stageVariables: null,
  };
}

function cut(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

function parameters(query) {
  const found = Object.create(null);
  for (const pair of query.split('&').filter(Boolean)) {
    const [name, value] = cut(pair.replaceAll('+', ' '), '=').map((part) => unescapeBuffer(part).toString());
    found[name] = name in found ? `${found[name]},${value}` : value;
  }
  return { ...found };
}

function time(now) {
  const two = (n) => String(n).padStart(2, '0');
  const day = `${two(now.getUTCDate())}/${MONTHS[now.getUTCMonth()]}/${now.getUTCFullYear()}`;
  return `${day}:${two(now.getUTCHours())}:${two(now.getUTCMinutes())}:${two(now.getUTCSeconds())} +0000`;
}

function isTextual(headers, body) {
  if (body.length === 0) return true;
  const type = cut(headers['content-type'] ?? '', ';')[0].trim().toLowerCase();
  return !('content-encoding' in headers) && TEXT.test(type) && isUtf8(body);
}

/** Gives status, fields and body of the answer to an HTTP request: of {statusCode, ...}, or any other value as a 200. */
function toHTTP(result) {
  if (typeof result === 'string') return [200, JSON_TYPE, Buffer.from(result)];
  if (result === null || typeof result !== 'object' || !('statusCode' in result)) return toPayload(result);
  return [...headOf(result), content(result)];
}

/** Gives status and fields of {statusCode, headers, cookies}. */
function headOf(answer) {
  const status = answer.statusCode;
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw bad(`statusCode is ${show(status)}, not an integer from 200 to 599`);
  }
  return [status, fields(answer)];
}

function fields({ headers, cookies }) {
  if (Array.isArray(headers) || typeof (headers ?? {}) !== 'object') throw bad(`headers is ${show(headers)}, not an object`);
  if (!Array.isArray(cookies ?? [])) throw bad(`cookies is ${show(cookies)}, not an array of strings`);
  const list = [];
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (!isToken(name)) throw bad(`headers: ${show(name)} is not a valid header name`);
    if (!isHopByHop(name) && name.toLowerCase() !== 'content-length' && !isOurs(name)) {
      list.push(name, checked(`headers[${show(name)}]`, ['number', 'boolean'].includes(typeof value) ? String(value) : value));
    }
  }
  const typed = list.some((name, i) => i % 2 === 0 && name.toLowerCase() === 'content-type');
  (cookies ?? []).forEach((cookie, i) => list.push('Set-Cookie', checked(`cookies[${i}]`, cookie)));
  return typed ? list : [...JSON_TYPE, ...list];
}

function isToken(name) {
  try {
    validateHeaderName(name);
    return true;
  } catch {
    return false;
  }
}

function checked(where, value) {
  if (typeof value !== 'string') throw bad(`${where} is ${show(value)}, not a string`);
  if (/[^\t\x20-\x7e\x80-\xff]/.test(value)) {
    throw bad(`${where} holds a line break or another character that no header may hold`);
  }
  return value.trim();
}

function content({ body, isBase64Encoded }) {
  if (typeof (isBase64Encoded ?? false) !== 'boolean') throw bad(`isBase64Encoded is ${show(isBase64Encoded)}, not a boolean`);
  if (body === undefined || body === null) return Buffer.alloc(0);
  if (typeof body !== 'string') {
    const hint = ArrayBuffer.isView(body) ? "use body.toString('base64') and isBase64Encoded" : 'use JSON.stringify';
    throw bad(`body is ${show(body)}, not a string; ${hint}`);
  }
  if (!isBase64Encoded) return Buffer.from(body);
  const raw = Buffer.from(body, 'base64');
  if (raw.toString('base64') !== body) throw bad('isBase64Encoded is true, but body is not base64');
  return raw;
}

function encode(value) {
  let text, last;
  try {
    text = JSON.stringify(value ?? null);
  } catch (error) {
    try {
      JSON.stringify(value, (key, part) => ((last = key), part));
    } catch {
      // as before; last is now the key that it failed at
    }
    throw bad(`the result is not JSON: ${error?.message}${last ? ` (at ${show(last)})` : ''}`);
  }
  if (text === undefined) throw bad(`the result is not JSON: it is ${show(value)}`);
  return Buffer.from(text);
}

function bad(message) {
  return new Failure('bad_response', 'BadResponse', message);
}

// Says what value is, in a few words.
function show(value) {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40));
  if (Array.isArray(value)) return 'an array';
  return ['object', 'function', 'symbol'].includes(typeof value) && value !== null ? `of type ${typeof value}` : String(value);
}

module.exports = { ofPayload, toPayload, ofHTTP, toHTTP, headOf };
