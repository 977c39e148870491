// Makes a page of Markdown.

import { marked } from 'marked';

// The page may show what its author wrote and pictures, and run nothing: Markdown may hold any HTML.
const policy = "default-src 'none'; img-src https: data:; style-src 'unsafe-inline'";

export default {
  async fetch(request) {
    if (request.method !== 'POST') {
      return new Response('POST some Markdown\n', { status: 405, headers: { allow: 'POST' } });
    }
    const text = await request.text();
    console.log('a page of', text.length, 'characters');
    return new Response(page(text), { headers: { 'content-type': 'text/html; charset=utf-8', 'content-security-policy': policy } });
  },
};

/** Gives the page; its title is the first heading. */
export function page(text) {
  const tokens = marked.lexer(text);
  const title = tokens.find((token) => token.type === 'heading')?.text ?? 'Untitled';
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>${escape(title)}</title>
<style>body { max-width: 46em; margin: 2em auto; padding: 0 1em; font: 16px/1.6 system-ui, sans-serif } pre { overflow: auto }</style>
${marked.parser(tokens)}</html>
`;
}

const escape = (text) => text.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c]);
