// A module that cannot be loaded.
console.log('loading');
throw new Error('no luck today');
