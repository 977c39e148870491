// Notes in the browser: / lists them, /notes/ID shows one.

/** The page that a path stands for. */
export function page(path) {
  const note = /^\/notes\/([0-9]+)\/?$/.exec(path);
  if (note) return { name: 'note', id: note[1] };
  return path === '/' ? { name: 'list' } : { name: 'missing', path };
}

/** The first line of a note, for the list. */
export function title(text) {
  return text.trim().split('\n')[0].slice(0, 60) || 'Empty note';
}

function element(tag, properties, ...children) {
  const e = Object.assign(document.createElement(tag), properties);
  e.append(...children);
  return e;
}

function list(notes) {
  const items = Object.entries(notes).map(([id, text]) =>
    element('li', {}, element('a', { href: `/notes/${id}` }, title(text))));
  const next = Math.max(0, ...Object.keys(notes).map(Number)) + 1;
  return [element('ul', {}, ...items), element('a', { href: `/notes/${next}` }, 'New note')];
}

function note(notes, id) {
  const area = element('textarea', { value: notes[id] ?? '', placeholder: 'Write something' });
  area.addEventListener('input', () => save({ ...load(), [id]: area.value }));
  return [area];
}

const load = () => JSON.parse(localStorage.getItem('notes') ?? '{}');
const save = (notes) => localStorage.setItem('notes', JSON.stringify(notes));

function show() {
  const at = page(location.pathname);
  const content = {
    list: () => list(load()),
    note: () => note(load(), at.id),
    missing: () => [element('p', {}, `There is nothing at ${at.path}.`)],
  }[at.name]();
  document.querySelector('main').replaceChildren(...content);
}

if (globalThis.document) {
  addEventListener('popstate', show);
  addEventListener('click', (event) => {
    const link = event.target.closest('a[href^="/"]');
    if (!link || page(link.pathname).name === 'missing') return;
    event.preventDefault();
    history.pushState(null, '', link.href);
    show();
  });
  show();
}
